"""The commands and programs of docs/export.md, run as they stand there, and the client in JavaScript."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import finetune as ft

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "export.md").read_text()
CLIENT = ROOT / "examples" / "clients" / "classify.mjs"


def test_every_command_of_the_guide_works(run: Path, guide: dict[str, str]) -> None:
    plain, every, int8 = guide.values()
    assert "classifier.onnx: no label differs" in plain
    assert {export["format"] for export in json.loads(every)["exports"]} == {"onnx", "torch", "timm"}
    assert "int8: accuracy" in int8
    assert "onnx int8" in int8, "its latency"
    assert (run / "export" / "onnx" / "classifier.onnx").is_file()
    assert [path.name for path in (run / "export").iterdir()] == ["onnx"], "nothing unfinished"


def test_the_program_in_python_labels_as_the_run_did(run: Path, images: Path, exported: dict[str, Path]) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    predicted = ft.Run(run).predictions
    paths = [str(images / path) for path in predicted["path"]]
    done = subprocess.run(
        [sys.executable, "-c", program, exported["onnx"] / "classifier.onnx", *paths],
        capture_output=True,
        check=True,
        text=True,
    )
    labels = [line.removeprefix(path).split()[0] for path, line in zip(paths, done.stdout.splitlines(), strict=True)]
    assert labels == predicted["predicted"].tolist()


def test_the_client_in_javascript_gives_the_same_probabilities(
    run: Path, images: Path, exported: dict[str, Path], tmp_path: Path
) -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node is not there")
    packages = re.findall(r"^    npm install (.+)$", GUIDE, re.MULTILINE)[0].split()
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *packages]
    try:
        got = subprocess.run(install, cwd=tmp_path, capture_output=True, timeout=90).returncode
    except subprocess.TimeoutExpired:
        got = 1
    if got:
        pytest.skip("npm cannot fetch the packages")
    shutil.copy(CLIENT, tmp_path)
    predicted = ft.Run(run).predictions
    paths = {str(images / row["path"]): row for _, row in predicted.iterrows()}
    command = ["node", "classify.mjs", exported["onnx"] / "classifier.onnx", *paths, "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, text=True)
    for path, answer in json.loads(done.stdout).items():
        assert max(answer, key=answer.__getitem__) == paths[path]["predicted"]
        for name, probability in answer.items():
            assert probability == pytest.approx(float(paths[path][f"p:{name}"]), abs=0.02)


def test_the_client_is_short() -> None:
    assert len(CLIENT.read_text().splitlines()) <= 60

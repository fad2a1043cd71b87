"""The commands and programs of docs/export.md, run as they stand there, and the client in JavaScript."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import finetune as ft
from tests import makers
from tests.conftest import Command

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "export.md").read_text()
CLIENT = ROOT / "examples" / "clients" / "classify.mjs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with `runs/vehicles/001` and its images."""
    folder = tmp_path_factory.mktemp("guide")
    images = makers.class_folders(folder / "images", {"car": 12, "ship": 12})
    makers.put(images / "car" / "tall.jpg", makers.jpeg(3, 60, 90))
    recipe = {
        "data": {"folder": str(images), "split": {"val": 0.25, "test": 0.4}, "augment": "none"},
        "model": {"backbone": "timm/test_resnet", "weights": "none", "preprocess": {"size": 48}},
        "train": {"epochs": 1, "batch_size": 8, "precision": "fp32"},
    }
    ft.run(recipe, out=folder / "runs" / "vehicles" / "001")
    return folder


def test_every_command_of_the_guide_works(folder: Path, cli: Command) -> None:
    commands = re.findall(r"^    finetune (.+)$", GUIDE, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        done = cli(*shlex.split(command), cwd=folder, timeout=400)
        assert done.rc == 0, done.err
    assert {export["format"] for export in json.loads(done.out)["exports"]} == {"onnx", "torch", "timm"}
    assert (folder / "runs/vehicles/001/export/onnx/classifier.onnx").is_file()


def test_the_program_in_python_labels_as_the_run_did(folder: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    predicted = ft.Run(folder / "runs/vehicles/001").predictions
    paths = [str(folder / "images" / path) for path in predicted["path"]]
    done = subprocess.run(
        [sys.executable, "-c", program, folder / "exported/onnx/classifier.onnx", *paths],
        capture_output=True,
        check=True,
        text=True,
    )
    labels = [line.removeprefix(path).split()[0] for path, line in zip(paths, done.stdout.splitlines(), strict=True)]
    assert labels == predicted["predicted"].tolist()


def test_the_client_in_javascript_gives_the_same_probabilities(folder: Path, tmp_path: Path) -> None:
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
    predicted = ft.Run(folder / "runs/vehicles/001").predictions
    paths = {str(folder / "images" / row["path"]): row for _, row in predicted.iterrows()}
    command = ["node", "classify.mjs", folder / "exported/onnx/classifier.onnx", *paths, "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, text=True)
    for path, answer in json.loads(done.stdout).items():
        assert max(answer, key=answer.__getitem__) == paths[path]["predicted"]
        for name, probability in answer.items():
            assert probability == pytest.approx(float(paths[path][f"p:{name}"]), abs=0.02)


def test_the_client_is_short() -> None:
    assert len(CLIENT.read_text().splitlines()) <= 60

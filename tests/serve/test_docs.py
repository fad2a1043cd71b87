"""Every command and client of docs/serve.md and docs/predict.md, as a reader would run it."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.cli.main import cli as commands
from finetune.deliver.predictor import Predictor
from tests import makers
from tests.serve.conftest import Client

DOCS = Path(__file__).parents[2] / "docs"


def blocks(name: str) -> list[tuple[str, str]]:
    """Language and text of each block of a guide."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", (DOCS / name).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert found
    return found


@pytest.mark.parametrize(("language", "text"), [block for block in blocks("serve.md") if block[0] != "json"])
def test_a_client_of_the_guide(client: Client, predictor: Predictor, tmp_path: Path, language: str, text: str) -> None:
    one = makers.put(tmp_path / "one.jpg", makers.jpeg(1)).read_bytes()
    makers.put(tmp_path / "two.png", makers.encoded(makers.photo(2), "PNG"))
    runner = {"bash": shutil.which("bash"), "python": sys.executable, "javascript": shutil.which("node")}[language]
    if runner is None:
        pytest.skip(f"nothing here runs {language}")
    script = tmp_path / {"bash": "it.sh", "python": "it.py", "javascript": "it.mjs"}[language]
    script.write_text(text.replace("http://127.0.0.1:8000", client.url))
    options = ["-eu"] if language == "bash" else []
    done = subprocess.run(
        [runner, *options, script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env={"FINETUNE_TOKEN": "x"},
    )
    assert done.returncode == 0, done.stderr
    label = predictor.predict(one).label
    if language == "bash":
        rows = [
            row for line in done.stdout.replace("}{", "}\n{").splitlines() for row in json.loads(line)["predictions"]
        ]
        assert rows[0]["label"] == label
        assert all(row["error"] is None for row in rows)
    else:
        assert label in done.stdout.splitlines()[0]


def test_the_answer_of_the_guide_has_the_keys_of_a_real_one(client: Client) -> None:
    (text,) = [text for language, text in blocks("serve.md") if language == "json"]
    (row,) = client.send(("a.jpg", makers.jpeg())).json["predictions"]
    assert json.loads(text)["predictions"][0].keys() == row.keys()


def test_the_routes_of_the_guide_are_those_there_are(client: Client) -> None:
    text = (DOCS / "serve.md").read_text("utf-8")
    for path in client("GET", "/openapi.json").json["paths"]:
        assert f"GET {path}`" in text or f"127.0.0.1:8000{path}" in text


def test_predictions_for_many_files_as_the_guide_has_them(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        makers.put(tmp_path / f"photos/{number}.jpg", makers.jpeg(number))
    monkeypatch.chdir(tmp_path)
    lines = [line for language, text in blocks("predict.md") if language == "bash" for line in text.splitlines()]
    assert len(lines) >= 4
    for line in lines:
        before, _, command = line.rpartition(" | ")
        if before:
            names = subprocess.run(shlex.split(before), capture_output=True, check=True, timeout=20).stdout
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(names)))
        words = [str(bundle) if word == "RUN" else word for word in shlex.split(command)]
        assert words[0] == "finetune"
        commands.main(args=words[1:], standalone_mode=False)
    assert len((tmp_path / "labels.csv").read_text().splitlines()) == 4
    assert len((tmp_path / "sure.jsonl").read_text().splitlines()) == 3
    assert len(json.loads(capsys.readouterr().out)["predictions"]) == 3

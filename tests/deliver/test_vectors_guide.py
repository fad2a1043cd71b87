"""Every command and script of docs/vectors.md runs, in order, and gives what the page says."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from finetune.cli.main import cli
from finetune.model.backbones import build
from finetune.model.bundle import save_bundle

GUIDE = Path(__file__).parents[2] / "docs" / "vectors.md"


def blocks() -> list[str]:
    """The indented blocks of the page."""
    found = re.findall(r"(?:^    .*\n(?:^\n(?=    ))?)+", GUIDE.read_text("utf-8"), flags=re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in found]


def test_the_guide_runs(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    save_bundle(tmp_path / "RUN", build("small/mlp", ["car", "van"]), {})
    commands = scripts = 0
    for block in blocks():
        if block.startswith("finetune "):
            for line in block.strip().splitlines():
                cli.main(args=shlex.split(line)[1:], standalone_mode=False)
                commands += 1
        elif block.startswith("import"):
            exec(compile(block, "guide", "exec"), {})
            scripts += 1
    assert (commands, scripts) == (8, 1)
    out = capsys.readouterr().out
    assert "24 images in store" in out
    assert "0 new, 0 changed, 24 unchanged" in out
    assert (tmp_path / "nearest.html").is_file()
    capsys.readouterr()
    cli.main(args=["search", "store", "photos/car/0000.jpg", "-k", "1", "--json"], standalone_mode=False)
    said = json.loads(next(block for block in blocks() if block.startswith("{")))
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == said.keys()
    assert found["results"][0].keys() == said["results"][0].keys()
    (neighbour,) = found["results"][0]["neighbours"]
    assert neighbour.keys() == said["results"][0]["neighbours"][0].keys()
    assert neighbour["distance"] == pytest.approx(0, abs=1e-6)

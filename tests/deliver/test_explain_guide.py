"""Every command of docs/explain.md runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from finetune.cli.main import cli
from finetune.model.backbones import build
from finetune.model.bundle import save_bundle
from tests.makers import encoded, photo, put

GUIDE = Path(__file__).parents[2] / "docs" / "explain.md"


def test_the_guide_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_bundle(tmp_path / "RUN", build("small/mlp", ["car", "van"]), {})
    put(tmp_path / "photo.png", encoded(photo(1), "PNG"))
    commands = re.findall(r"^    finetune (.*)$", GUIDE.read_text("utf-8"), flags=re.MULTILINE)
    for command in commands:
        cli.main(args=shlex.split(command), standalone_mode=False)
    assert len(commands) == 3
    assert all((tmp_path / name).is_file() for name in ("explain/photo.png", "car.png", "occlusion.png"))

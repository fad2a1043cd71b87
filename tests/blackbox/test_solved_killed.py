"""A folder without a recipe, killed where its head is made, goes on to the bits of an uninterrupted run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import makers

ROOT = Path(__file__).parents[2]
NETWORK = "models/small-resnet"

KILLED_AT = """\
import os
import signal
import sys

from finetune.cli.main import main
from {module} import {owner} as owner


before, calls = owner.{name}, 0


def counted(*args, **kwargs):
    global calls
    calls += 1
    if calls == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return before(*args, **kwargs)


owner.{name} = counted
sys.argv = ["finetune", "run", "photos", "--out", {out!r}, "--backbone", {backbone!r}]
main()
"""


def command(folder: Path, cache: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={
            **os.environ,
            "FINETUNE_CACHE": str(folder / f"{cache}-cache"),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=240,
    )


def outcome(run: Path) -> tuple[str, bytes]:
    return json.loads((run / "run.json").read_text())["weights_sha256"], (run / "report/predictions.csv").read_bytes()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("solved")
    makers.class_folders(folder / "photos", {"ant": 10, "bee": 10})
    return folder


@pytest.fixture(scope="module")
def reference(place: Path) -> tuple[str, bytes]:
    done = command(place, "whole", "-m", "finetune", "run", "photos", "--out", "whole", "--backbone", NETWORK)
    assert done.returncode == 0, done.stderr
    return outcome(place / "whole")


@pytest.mark.parametrize(
    ("step", "module", "owner", "name", "call"),
    [
        ("features", "finetune.train.table_source", "TableSource", "values", 1),
        ("solve", "finetune.train.discriminant", "Discriminant", "head", 30),
        ("refit", "finetune.train.trainer", "Trainer", "save", 1),
        ("report", "finetune.report", "files", "write_csv", 2),
    ],
)
def test_killed_and_resumed_it_has_the_same_bits(
    place: Path, reference: tuple[str, bytes], step: str, module: str, owner: str, name: str, call: int
) -> None:
    script = KILLED_AT.format(module=module, owner=owner, name=name, call=call, out=step, backbone=NETWORK)
    killed = command(place, step, "-c", script)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert json.loads((place / step / "run.json").read_text())["status"] == "running"
    resumed = command(place, step, "-m", "finetune", "resume", step)
    assert resumed.returncode == 0, resumed.stderr
    assert outcome(place / step) == reference

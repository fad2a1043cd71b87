"""`--tune` as a user types it: what it says and leaves, killed in the gate, and where it cannot be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune.recipe.yaml import read
from tests import makers

RECIPE = """\
data: {folder: images, split: {val: 0.4, test: 0.2}, augment: none}
model: {backbone: timm/test_resnet, weights: none, weights_missing: allow, preprocess: {size: 32}, features: auto}
train: {precision: fp32}
"""
SHORT = ("--tune", "--epochs", "3")

KILLED_IN_THE_GATE = """\
import os
import signal
import sys

from finetune.cli.main import main
from finetune.train import choice

choice.decide = lambda *values: os.kill(os.getpid(), signal.SIGKILL)
sys.argv = ["finetune", "run", "job.yaml", "--out", "killed", "--tune", "--epochs", "3"]
main()
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    makers.class_folders(folder / "images", {"ant": 16, "bee": 16})
    (folder / "job.yaml").write_text(RECIPE)
    return folder


def test_it_says_what_was_kept_and_killed_in_the_gate_it_comes_to_the_same_bits(job: Path, cli: Any) -> None:
    done = cli("run", "job.yaml", "--out", "whole", *SHORT, cwd=job, timeout=300)
    assert done.rc == 0, done.err
    record = json.loads((job / "whole" / "run.json").read_text())
    assert record["gate"]["images"] == 12
    assert record["gate"]["kept"] in ("solved", "tuned")
    assert "12 validation images that neither had learned from" in done.err
    recipe = read((job / "whole" / "recipe.yaml").read_text(), "recipe").value
    assert recipe["train"]["gate"] == "paired"
    assert set(recipe["model"]["unfreeze"].values()) == {0, 1}

    killed = subprocess.run(
        [sys.executable, "-c", KILLED_IN_THE_GATE],
        cwd=job,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = cli("resume", "killed", cwd=job, timeout=300)
    assert resumed.rc == 0, resumed.err
    again = json.loads((job / "killed" / "run.json").read_text())
    assert again["weights_sha256"] == record["weights_sha256"]
    assert again["gate"] == record["gate"]


def test_the_plan_shows_the_second_phase(job: Path, cli: Any) -> None:
    done = cli("plan", "job.yaml", "--tune", cwd=job, timeout=300)
    assert done.rc == 0, done.err
    assert "phase 1: epochs 1-10" in done.out
    assert "0.0003" in done.out


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--unfreeze", "layer4"], "--tune, --unfreeze"),
        (["-o", "model.unfreeze={all: 0}"], "there is one already"),
        (["-o", "data.split={val: 0.1, test: 0.0}"], "4 validation images cannot tell"),
        (["-o", "train.loss=bce"], "cannot be solved first"),
    ],
)
def test_where_it_cannot_be_it_says_so(job: Path, cli: Any, flags: list[str], problem: str) -> None:
    done = cli("run", "job.yaml", "--tune", "--out", "refused", *flags, cwd=job, timeout=300)
    assert done.rc == 2, done.err
    assert problem in done.err
    assert "Traceback" not in done.err

"""`--nproc`: where a process is killed all start again and go on; a signal to one of them ends all with 143."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.makers import class_folders
from tests.survive.ranks import ranks_of

FINETUNE = Path(sys.executable).with_name("finetune")
pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the ranks below /proc")


RECIPE = """\
data: {{folder: {root}, split: {{val: 0.3, test: 0.2}}, augment: none}}
model: {{backbone: timm/test_resnet, weights: none, preprocess: {{size: 32}}, unfreeze: {{all: 0}}}}
train: {{epochs: 1000, batch_size: 4, device: cpu, checkpoint: {{every_steps: 1}}}}
"""


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_one_is_killed_and_all_start_again_then_one_is_asked_to_stop(tmp_path: Path) -> None:
    root, out = class_folders(tmp_path / "images", {"a": 14, "b": 15}), tmp_path / "run"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(root=root))

    def step() -> int:
        return max((int(path.stem[-7:]) for path in out.glob("checkpoints/epoch-*.json")), default=0)

    running = subprocess.Popen(
        [FINETUNE, "run", str(recipe), "--out", str(out), "--nproc", "2"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: running.poll() is not None or step() >= 2)
    before, ranks = step(), ranks_of(out)
    assert sorted(ranks) == [0, 1]
    os.kill(ranks[1], signal.SIGKILL)
    wait_for(lambda: running.poll() is not None or step() > before + 3)
    again = ranks_of(out)
    assert sorted(again) == [0, 1]
    assert not set(again.values()) & set(ranks.values())

    os.kill(again[1], signal.SIGTERM)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 143, said
    assert "resuming at step" in said
    assert f"remedy: Continue with: finetune resume {out}" in said
    assert "Traceback" not in said
    assert json.loads((out / "run.json").read_text())["status"] == "stopped"
    assert ranks_of(out) == {}

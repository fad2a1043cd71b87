"""What is kept of the checkpoints: counted are those that are whole, and never fewer than one is left."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

from finetune.errors import ArtefactError
from finetune.files import read_json, write_json
from finetune.runs.checkpoints import Checkpoints


def save(checkpoints: Checkpoints, step: int, *, best: bool = False) -> Path:
    state = {"weight": torch.full((3,), float(step))}
    plain = {"epoch": step // 10, "step": step, "loss": 1.0, "optimizer_state_dict": {}, "position": {"step": step}}
    return checkpoints.save({**plain, "model_state_dict": state}, best=best, numbered=not best)


def steps(checkpoints: Checkpoints) -> list[int]:
    return [int(path.stem.rpartition("-")[2]) for path in checkpoints.listed()]


def test_c22_the_highest_step_is_the_newest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (950, 1000, 9_999_999, 10_000_000):
        save(checkpoints, step)
    assert steps(checkpoints) == [10_000_000, 9_999_999]
    newest, broken = checkpoints.newest()
    assert newest is not None
    assert newest.name.endswith("step-10000000.pth")
    assert broken == []


def test_c23_the_best_is_never_dropped(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    save(checkpoints, 1, best=True)
    for step in range(2, 6):
        save(checkpoints, step)
    assert steps(checkpoints) == [5]
    assert checkpoints.reason_broken(checkpoints.best) is None


@pytest.mark.parametrize("kind", ["cut", "no manifest", "empty"])
def test_c24_what_is_not_whole_is_not_counted(tmp_path: Path, kind: str) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in range(90, 95):
        path = save(Checkpoints(tmp_path, keep=99), step)
        if kind == "no manifest":
            path.with_suffix(".json").unlink()
        else:
            path.write_bytes(path.read_bytes()[:-1] if kind == "cut" else b"")
    for step in (1, 2, 3):
        save(checkpoints, step)
        assert checkpoints.reason_broken(checkpoints.listed()[-1]) is None
    assert steps(checkpoints) == [94, 93, 92, 91, 90, 3, 2]
    newest, broken = checkpoints.newest()
    assert newest is not None
    assert newest.name.endswith("0000003.pth")
    assert len(broken) == 5


def test_c24_what_lies_beyond_the_step_gone_back_to_is_dropped(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (4, 6, 8):
        save(Checkpoints(tmp_path, keep=99), step)
    save(checkpoints, 5)
    assert steps(checkpoints) == [5, 4]


def test_c25_an_old_one_that_cannot_be_deleted_is_a_warning(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    first = save(checkpoints, 1)
    if os.geteuid() != 0 or subprocess.run(["chattr", "+i", first], capture_output=True).returncode != 0:
        pytest.skip("chattr +i is not possible here")
    try:
        save(checkpoints, 2)
        assert first.exists()
        assert any(first.name in text for text in checkpoints.warnings)
    finally:
        subprocess.run(["chattr", "-i", first], check=True)


def test_c33_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = save(checkpoints, 1)
    write_json(path.with_suffix(".json"), {**read_json(path.with_suffix(".json")), "format": 999})
    with pytest.raises(ArtefactError, match="newer version"):
        checkpoints.load(path)
    with pytest.raises(ArtefactError, match="newer version"):
        checkpoints.latest(lambda text: None)

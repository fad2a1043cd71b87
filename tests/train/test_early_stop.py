"""`early_stop` ends a phase that has stopped getting better; the thaw that was planned still comes."""

from __future__ import annotations

import pytest

import finetune as ft
from finetune.runs.reporter import Reporter
from tests import makers


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> tuple[ft.Run, list[str]]:
    """A run that cannot get better, of eight epochs with a thaw at the sixth and a patience of one."""
    folder = tmp_path_factory.mktemp("early")
    makers.class_folders(folder / "images", {"ant": 6, "bee": 6})
    said: list[str] = []
    recipe = {
        "data": {"folder": str(folder / "images"), "split": {"val": 0.3, "test": 0}, "augment": "none"},
        "model": {"backbone": "small/mlp", "unfreeze": {"head": 0, "fc1": 5}, "weights_missing": "allow"},
        "train": {"epochs": 8, "early_stop": 1, "optimizer": "sgd", "lr": 1e-30, "device": "cpu"},
    }
    return ft.run(recipe, out=folder / "o", reporter=Reporter(say=said.append)), said


def test_the_planned_thaw_is_not_cancelled(impatient: tuple[ft.Run, list[str]]) -> None:
    run, _ = impatient
    # the first epoch is the best; the second is one too many; fc1 thaws at epoch 5 and has one epoch to be better
    assert run.history["epoch"].tolist() == [0, 1, 5]
    assert run.history["phase"].tolist() == [0, 0, 1]


def test_the_record_and_the_last_lines_say_so(impatient: tuple[ft.Run, list[str]]) -> None:
    run, said = impatient
    assert run.record.stopped_early is not None
    assert [line.split(":")[0] for line in run.record.stopped_early] == [
        "phase 0 ended after 2 of 5 epochs",
        "phase 1 ended after 1 of 3 epochs",
    ]
    assert "val_macro_f1" in run.record.stopped_early[0]
    text = "\n".join(said)
    assert all(text.count(line) == 1 for line in run.record.stopped_early)
    assert "early_stop" in text.split("phase 0: ")[1], "the plan says so before anything is trained"


def test_the_last_checkpoint_is_of_the_last_epoch_that_was_trained(impatient: tuple[ft.Run, list[str]]) -> None:
    run, _ = impatient
    names = sorted(path.name for path in run.path.glob("checkpoints/epoch-*.pth"))
    assert names[-1].startswith("epoch-0005-")

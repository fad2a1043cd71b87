"""What serves as a RUN: a finished run, one that was stopped, a checkpoint, a bundle; and what is said of the rest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import finetune as ft
from finetune.deliver.evaluate import evaluate
from finetune.deliver.vectors.knn import NeighbourVote
from finetune.device import choose
from finetune.runs.reporter import Reporter
from tests import makers


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> ft.Run:
    folder = tmp_path_factory.mktemp("opened")
    makers.class_folders(folder / "images", {"ant": 8, "bee": 8})
    recipe = {
        "data": {"folder": str(folder / "images"), "split": {"val": 0.25, "test": 0.25}, "augment": "none"},
        "model": {"backbone": "small/mlp"},
        "train": {"epochs": 2, "batch_size": 4, "ema": 0.5, "device": "cpu"},
    }
    return ft.run(recipe, out=folder / "runs" / "001", reporter=Reporter(say=lambda text: None))


@pytest.fixture
def stopped(finished: ft.Run, tmp_path: Path) -> Path:
    """The same run as a kill before the last file would have left it."""
    shutil.copytree(finished, tmp_path / "s")
    for folder in ("model", "report"):
        shutil.rmtree(tmp_path / "s" / folder)
    return tmp_path / "s"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return ft.load(folder).network.module.state_dict()


def test_a_stopped_run_and_its_best_checkpoint_are_the_model_of_the_finished_one(
    finished: ft.Run, stopped: Path
) -> None:
    wanted = weights(finished.path)
    for place in (stopped, finished / "checkpoints" / "best.pth"):
        found = weights(place)
        assert all(torch.equal(found[name], value) for name, value in wanted.items())
        assert ft.load(place).network.temperature == ft.load(finished).network.temperature
    image = Path(finished.record.recipe["data"]["folder"]) / "ant" / "000.jpg"
    assert ft.load(stopped).predict(image) == ft.load(finished).predict(image)


def test_it_is_said_that_a_checkpoint_stands_in(stopped: Path) -> None:
    said: list[str] = []
    evaluate(stopped, reporter=Reporter(say=said.append))
    assert any("has not finished: using the best checkpoint so far (epoch " in line for line in said)


def test_a_run_without_a_best_checkpoint_is_opened_by_its_newest(stopped: Path) -> None:
    (stopped / "checkpoints" / "best.pth").unlink()
    assert ft.load(stopped).classes == ["ant", "bee"]
    shutil.rmtree(stopped / "checkpoints")
    with pytest.raises(ft.FinetuneError, match="no model and no checkpoint yet") as refused:
        ft.load(stopped)
    assert refused.value.exit_code == 4


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("runs", r"a folder of runs: 001"),
        ("runs/002", r"no such run \(did you mean '.*001'"),
        ("images", "neither a model bundle nor a run folder"),
        ("runs/001/checkpoints/bst.pth", r"no such checkpoint \(did you mean 'best.pth'"),
    ],
)
def test_what_is_no_run_is_named_with_the_nearest(finished: ft.Run, place: str, words: str) -> None:
    with pytest.raises(ft.FinetuneError, match=words) as refused:
        ft.load(finished.path.parents[1] / place)
    assert refused.value.exit_code == 2


def test_a_foreign_checkpoint_is_refused(finished: ft.Run, tmp_path: Path) -> None:
    shutil.copy(finished / "checkpoints" / "best.pth", tmp_path / "alone.pth")
    with pytest.raises(ft.FinetuneError, match="not a checkpoint in a run's folder"):
        ft.load(tmp_path / "alone.pth")


def test_a_checkpoint_fills_a_store_that_is_the_finished_runs_too(finished: ft.Run, tmp_path: Path) -> None:
    images, best = Path(finished.record.recipe["data"]["folder"]), finished / "checkpoints" / "best.pth"
    store, done = ft.embed(best, images, tmp_path / "store")
    rows = [row for batch in store.vectors() for row in batch.to_pylist()]
    assert done.new == len(rows) == 16
    assert {row["split"] for row in rows} == {"train", "val", "test"}, "as the run knows them"
    assert ft.embed(finished.path, images, tmp_path / "store")[1].unchanged == 16
    vote = NeighbourVote(ft.load(best).network, tmp_path / "store", choose("cpu"))
    assert vote.classes == ["ant", "bee"]

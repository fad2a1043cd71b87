"""A run on several ranks is the run on one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from finetune.distributed.join import join, rank_from
from finetune.distributed.launch import folder_to_resume, leave_error
from finetune.distributed.ranks import Ranks, this_rank
from finetune.errors import DataError, LostRank, UsageError
from tests.distributed.processes import answers, close, compare_facts, images, on_ranks, solved, train, vanish

EPOCHS = 5
"""Of 4 steps each: 20."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[int, list[Any]]:
    """Number of ranks → what each of them came to, in 20 steps of SGD."""
    work = partial(train, folder, {"all": 0}, epochs=EPOCHS, optimizer="sgd", cache="off")
    return {world: on_ranks(world, work) for world in (1, 2, 3, 5)}


@pytest.mark.parametrize("world", [2, 3, 5])
def test_the_same_batches_come_to_the_same_weights(runs: dict[int, list[Any]], world: int) -> None:
    alone, _, _, steps = runs[1][0]
    assert steps == 20
    for weights, _, _, step in runs[world]:
        assert step == 20
        assert close(weights, alone, 1e-5)


@pytest.mark.parametrize("world", [2, 3, 5])
def test_validation_counts_every_image_once(runs: dict[int, list[Any]], world: int) -> None:
    ((_, alone, _, _),) = runs[1]
    for _, history, _, _ in runs[world]:
        assert [row["val_accuracy"] for row in history] == [row["val_accuracy"] for row in alone]
        assert [row["val_macro_f1"] for row in history] == [row["val_macro_f1"] for row in alone]
        for row, other in zip(history, alone, strict=True):
            assert row["val_loss"] == pytest.approx(other["val_loss"], rel=1e-6)
            assert row["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)


def test_a_signal_to_one_stops_all_after_the_same_step_and_another_number_goes_on(
    runs: dict[int, list[Any]], folder: Path, tmp_path: Path
) -> None:
    work = partial(train, folder, {"all": 0}, tmp_path / "checkpoints", epochs=EPOCHS, optimizer="sgd", cache="off")
    stopped = on_ranks(2, partial(work, stop_at=7))
    assert [one[2] for one in stopped] == [7, 7]
    assert len(list((tmp_path / "checkpoints").glob("*-step-0000007.pth"))) == 1
    for weights, _, again, step in on_ranks(3, work):
        assert (again, step) == (None, 20)
        assert close(weights, runs[1][0][0], 1e-5)


def test_a_head_is_solved_once_and_the_cache_filled_once(folder: Path, tmp_path: Path) -> None:
    found = {
        world: on_ranks(world, partial(solved, folder), FINETUNE_CACHE=str(tmp_path / f"{world}")) for world in (1, 2)
    }
    ((_, alone, history),) = found[1]
    assert [one[0] for one in found[2]] == [1, 0]
    for _, weights, other in found[2]:
        assert np.array_equal(weights, alone)
        assert other[0]["val_loss"] == pytest.approx(history[0]["val_loss"], rel=1e-6)
    tables = [
        {path.name: load_file(path)["rows"].tobytes() for path in (tmp_path / world).rglob("*.safetensors")}
        for world in ("1", "2")
    ]
    assert tables[0] == tables[1]
    assert tables[0]


@pytest.mark.parametrize("world", [2, 3, 5])
def test_test_images_are_answered_by_all_ranks_and_by_the_weights_of_the_first(folder: Path, world: int) -> None:
    (alone,) = on_ranks(1, partial(answers, folder))
    assert alone.shape == (13, 2)
    for logits in on_ranks(world, partial(answers, folder)):
        np.testing.assert_allclose(logits, alone, rtol=0, atol=1e-5)


def test_a_rank_with_something_else_is_named() -> None:
    assert on_ranks(2, partial(compare_facts, False)) == [None, None]
    found = on_ranks(3, partial(compare_facts, True))
    assert len(set(found)) == 1
    assert found[0].startswith("UsageError: rank 1: its images is not that of rank 0")


@pytest.mark.parametrize("how", ["dies", "hangs"])
def test_one_that_is_gone_or_silent_is_named(how: str) -> None:
    found = on_ranks(3, partial(vanish, how), waiting_for=(0, 2), FINETUNE_TIMEOUT="25")
    for text in (found[0], found[2]):
        assert text.startswith("LostRank: ")
        assert "rank 1 has ended, or does not answer" in text


# --- alone -----------------------------------------------------------------------------------------------------------


def test_parts_of_a_step_are_all_of_it_and_small_batches_stay_whole() -> None:
    step = [np.arange(8), np.arange(8, 13)]
    parts = [Ranks(rank, 3).parts(step) for rank in range(3)]
    for place, batch in enumerate(step):
        assert np.array_equal(np.concatenate([own[place] for own, _ in parts]), batch)
    assert {share for _, share in parts} == {3.0}
    for least, world in ((2, 3), (1, 6)):
        own, share = Ranks(1, world).parts(step, least)
        assert share == 1.0
        assert all(map(np.array_equal, own, step))
    assert np.array_equal(np.concatenate([Ranks(rank, 5).shard(13) for rank in range(5)]), np.arange(13))


def test_a_process_by_itself_is_rank_0_of_1(monkeypatch: pytest.MonkeyPatch) -> None:
    assert join() == this_rank() == Ranks()
    assert this_rank().broadcast({"a": 1}) == {"a": 1}
    assert this_rank().agree(2.5, None) == (2.5, None)
    assert rank_from({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}) == Ranks(3, 4, 1)
    with pytest.raises(UsageError, match="RANK"):
        rank_from({"RANK": "x", "WORLD_SIZE": "4"})


def test_what_is_final_is_left_for_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not leave_error(DataError("images: gone"))
    monkeypatch.setenv("FINETUNE_LAUNCH", str(tmp_path))
    assert not leave_error(LostRank("rank 1: gone"))  # starting again may help
    assert leave_error(DataError("images: gone"))
    assert folder_to_resume(None) is None
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert folder_to_resume(tmp_path) == tmp_path
    with pytest.raises(UsageError, match="--out"):
        folder_to_resume(None)

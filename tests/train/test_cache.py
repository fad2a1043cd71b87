"""A cached run is the uncached run; tables are filed, found again, and never half-written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from finetune.deliver.evaluate import evaluate
from finetune.evaluate.evaluation import evaluate_images
from finetune.files import cache_folder
from finetune.runs.reporter import Reporter
from finetune.speed import linear as module_of_linear
from finetune.story.run import run
from finetune.train.cached_inputs import gather_rows
from finetune.train.store import Layout, Store, in_blocks


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages and pictures take longer than these runs and have tests of their own."""
    monkeypatch.setattr("finetune.story.run.publish_report", lambda *_: [])


def train(folder: Path, out: Path, *, cache: Any, backbone: str = "timm/test_resnet", **changes: Any) -> Path:
    augment = changes.pop("augment", "none")
    given = {
        "data": {"folder": str(folder), "split": {"val": 0.25, "test": changes.pop("test", 0.25)}, "augment": augment},
        "model": {
            "backbone": backbone,
            "weights": "none",
            "weights_missing": "allow",
            "preprocess": {"size": changes.pop("size", 32)},
            "unfreeze": changes.pop("unfreeze", {"head": 0, "last:1": 1}),
        },
        "train": {
            "epochs": 3,
            "batch_size": 6,
            "optimizer": "sgd",
            "lr": 0.05,
            "precision": "fp32",
            "cache": cache,
            **changes,
        },
    }
    return run(given, out=out, reporter=Reporter(say=lambda text: None))


class Recorder:
    """Calls a function, and keeps what it was called with and gave."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *given: Any, **arguments: Any) -> Any:
        self.arguments = arguments
        self.result = self.function(*given, **arguments)
        return self.result


def weights(folder: Path) -> torch.Tensor:
    return torch.cat([value.double().flatten() for value in load_file(folder / "model" / "model.safetensors").values()])


def figures(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run.json").read_text())["cache"])


@pytest.mark.parametrize(
    ("backbone", "size"), [("timm/test_resnet", 32), ("timm/test_vit", 160), ("torchvision/squeezenet1_1", 64)]
)
def test_without_augmentation_a_cached_run_is_the_uncached_run(
    tiny: Path, tmp_path: Path, backbone: str, size: int
) -> None:
    cached = train(tiny, tmp_path / "cached", cache="auto", backbone=backbone, size=size)
    plain = train(tiny, tmp_path / "plain", cache="off", backbone=backbone, size=size)
    assert figures(cached)["served"] > 0
    assert figures(plain)["served"] == 0
    difference = (weights(cached) - weights(plain)).norm() / weights(plain).norm()
    assert difference < 1e-3


def test_with_as_many_views_as_epochs_a_cached_run_is_the_uncached_run(tiny: Path, tmp_path: Path) -> None:
    cached = train(tiny, tmp_path / "cached", cache={"views": 3}, augment="light")
    plain = train(tiny, tmp_path / "plain", cache="off", augment="light")
    assert figures(cached)["views"] == 2  # the second phase has two epochs, and a view for each
    assert (weights(cached) - weights(plain)).norm() / weights(plain).norm() < 1e-3


def test_a_second_run_finds_the_tables_of_the_first(tiny: Path, tmp_path: Path) -> None:
    head = {"unfreeze": {"head": 0}}
    first = figures(train(tiny, tmp_path / "first", cache="auto", **head))
    second = figures(train(tiny, tmp_path / "second", cache="auto", lr=0.01, **head))
    assert first["computed"] > 0
    assert first["hits"] == 0
    assert second["computed"] == 0
    assert second["hits"] == first["computed"]


@pytest.mark.parametrize("epochs", [1, 3])
def test_views_that_are_seen_once_are_kept_for_the_next_run(tiny: Path, tmp_path: Path, epochs: int) -> None:
    short: dict[str, Any] = {"unfreeze": {"head": 0}, "augment": "light", "epochs": epochs}
    first = train(tiny, tmp_path / "first", cache="auto", **short)
    plain = train(tiny, tmp_path / "plain", cache="off", **short)
    second = figures(train(tiny, tmp_path / "second", cache="auto", lr=0.01, **short))
    assert figures(first)["views"] == epochs
    assert second["computed"] == 0
    assert second["hits"] == figures(first)["computed"] > 0
    assert (weights(first) - weights(plain)).norm() / weights(plain).norm() < 1e-3


@pytest.mark.parametrize("budget", [{"ram_gb": 0}, {"disk_gb": 0}])
def test_views_that_are_seen_once_and_never_again_are_not_kept(
    tiny: Path, tmp_path: Path, budget: dict[str, float]
) -> None:
    found = figures(train(tiny, tmp_path / "o", cache=budget, unfreeze={"head": 0}, augment="light"))
    assert found["views"] == 0
    assert any("each view is seen once" in note for note in found["notes"])


@pytest.mark.parametrize("changes", [{}, {"unfreeze": {"head": 0}, "optimizer": "lbfgs"}, {"lr": 1e-9}, {"ema": 0.9}])
def test_validation_evaluates_by_what_is_kept_of_it_as_if_by_its_images(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr("finetune.story.run.evaluate_images", evaluated := Recorder(evaluate_images))
    folder = train(tiny, tmp_path / "o", cache="auto", precision="bf16", test=0, **changes)
    logits, kept = evaluated.arguments["logits"], evaluated.result
    assert logits is not None, "the images were looked at again"
    fresh, split = evaluate(folder)
    assert split == "val"
    np.testing.assert_allclose(kept.probabilities, fresh.probabilities, atol=1e-4)
    assert np.ptp(logits, axis=0).max() > 1e-2, "all images look alike: nothing is shown"


@pytest.mark.parametrize("changes", [{"cache": "off"}, {"test": 0.25}, {"unfreeze": {"all": 0}}])
def test_what_is_not_kept_is_evaluated_by_its_images(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr("finetune.story.run.evaluate_images", evaluated := Recorder(evaluate_images))
    train(tiny, tmp_path / "o", **{"cache": "auto", "test": 0, **changes})
    assert evaluated.arguments["logits"] is None


def test_on_disk_and_in_memory_give_the_same_bits(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ram = train(tiny, tmp_path / "ram", cache={"views": 1})
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "elsewhere"))
    disk = train(tiny, tmp_path / "disk", cache={"views": 1, "ram_gb": 0})
    assert torch.equal(weights(ram), weights(disk))
    assert list((tmp_path / "elsewhere" / "features").glob("*.safetensors"))


def test_a_budget_that_does_not_suffice_turns_it_off_and_says_so(tiny: Path, tmp_path: Path) -> None:
    found = figures(train(tiny, tmp_path / "o", cache={"views": 2, "ram_gb": 0, "disk_gb": 0}))
    assert found["served"] == 0
    assert "budget" in " ".join(found["notes"])


def test_rows_hold_values_of_any_shape_bit_by_bit() -> None:
    images = torch.randn(5, 3, 4, 6).to(memory_format=torch.channels_last)
    values = (images, torch.randn(5, 7).bfloat16(), torch.randn(5, 2, 3))
    layout = Layout.of(values)
    assert layout is not None
    again = layout.unpack(layout.pack(values))
    for value, other in zip(values, again, strict=True):
        assert torch.equal(value, other)
        assert value.dtype == other.dtype
    assert again[0].is_contiguous(memory_format=torch.channels_last)


ROWS = torch.randn(100, 10, generator=torch.Generator().manual_seed(0))
LAYOUT = Layout.of((ROWS,)) or pytest.fail("rows are rows")
SIZE = ROWS.numel() * ROWS.element_size()


def test_a_table_is_found_as_it_was_filed_with_what_it_cost(tmp_path: Path) -> None:
    store = Store(tmp_path / "features", 10**6)
    assert store.save("key", 100, LAYOUT, in_blocks(ROWS, 30), lambda: 0.125)
    found = store.load("key", 100, LAYOUT)
    assert found is not None
    assert torch.equal(found[0], ROWS)
    assert found[1] == 0.125
    assert store.load("other", 100, LAYOUT) is None
    assert store.load("key", 101, LAYOUT) is None


@pytest.mark.parametrize("damage", ["cut short", "one bit", "no header", "not ours"])
def test_a_damaged_table_is_not_found(tmp_path: Path, damage: str) -> None:
    store, path = Store(tmp_path, 10**6), tmp_path / "key.safetensors"
    assert store.save("key", 100, LAYOUT, [ROWS])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    damaged = {
        "cut short": content[:-1],
        "one bit": content,
        "no header": content[9:],
        "not ours": save({"rows": ROWS}),
    }
    path.write_bytes(damaged[damage])
    assert store.load("key", 100, LAYOUT) is None
    assert store.save("key", 100, LAYOUT, [ROWS])
    assert store.load("key", 100, LAYOUT) is not None


def test_the_tables_longest_unused_make_room(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        assert Store(tmp_path, int(2.5 * SIZE)).save(name, 100, LAYOUT, [ROWS])
    assert [path.stem for path, _ in Store(tmp_path, 0).tables()] == ["b", "c"]


def test_no_table_in_use_makes_room_and_no_more_is_promised_than_there_is(tmp_path: Path) -> None:
    assert Store(tmp_path, 10**6).save("old", 100, LAYOUT, [ROWS])
    store = Store(tmp_path, int(2.5 * SIZE))
    assert store.reserve(["a", "b"], SIZE)
    assert not store.reserve(["c"], SIZE)
    assert not store.has_room(SIZE)
    assert store.save("a", 100, LAYOUT, [ROWS])
    assert store.save("c", 100, LAYOUT, [ROWS])  # into the room of b, until that comes
    assert store.save("b", 100, LAYOUT, [ROWS])
    assert {path.stem for path, _ in store.tables()} == {"a", "b"}
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2.5 * SIZE


def test_half_written_tables_are_cleared_unless_somebody_writes_them(tmp_path: Path) -> None:
    left = tmp_path / ".key.safetensors.1.aa.tmp"
    left.write_bytes(b"x" * 1000)
    assert Store(tmp_path, 10**6).save("new", 100, LAYOUT, [ROWS])
    assert left.exists(), "it may be another process's, which has opened and not yet locked it"
    used = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert Store(tmp_path, 10**6).clear() == used
    assert not list(tmp_path.iterdir())
    seen: list[int] = []

    def blocks() -> Iterator[torch.Tensor]:
        seen.append(Store(tmp_path, 10**6).clear())
        yield ROWS

    assert Store(tmp_path, 10**6).save("held", 100, LAYOUT, blocks())
    assert seen == [0]


def test_damage_to_a_table_is_mended_by_the_next_run(tiny: Path, tmp_path: Path) -> None:
    first = train(tiny, tmp_path / "first", cache="auto", unfreeze={"head": 0})
    tables = list((cache_folder() / "features").glob("*.safetensors"))
    for table in tables:
        content = bytearray(table.read_bytes())
        content[-40:] = b"\xff" * 40
        table.write_bytes(content)
    second = train(tiny, tmp_path / "second", cache="auto", unfreeze={"head": 0})
    assert figures(second)["hits"] == 0
    third = train(tiny, tmp_path / "third", cache="auto", unfreeze={"head": 0})
    assert figures(third)["computed"] == 0
    assert figures(third)["seconds_saved"] > 0
    assert torch.equal(weights(first), weights(second))
    assert torch.equal(weights(first), weights(third))


def test_the_budget_on_disk_is_for_all_tables_of_a_phase(tiny: Path, tmp_path: Path) -> None:
    whole = figures(train(tiny, tmp_path / "whole", cache={"ram_gb": 0}, unfreeze={"head": 0}))
    folder = cache_folder() / "features"
    used = sum(path.stat().st_size for path in folder.iterdir())
    assert used == pytest.approx(whole["bytes"], rel=0.3)
    for path in folder.iterdir():
        path.unlink()
    budget = 0.9 * whole["bytes"]
    part = figures(train(tiny, tmp_path / "part", cache={"ram_gb": 0, "disk_gb": budget / 1e9}, unfreeze={"head": 0}))
    assert 0 < part["bytes"] <= budget
    assert sum(path.stat().st_size for path in folder.iterdir()) <= budget * 1.05
    assert "budget" in " ".join(part["notes"])


def test_a_script_without_a_cache_folder_goes_on_and_says_so(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "file"))
    found = figures(train(tiny, tmp_path / "o", cache={"views": 1}))
    assert found["served"] > 0
    assert "nothing is kept for the next run" in " ".join(found["notes"])
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_has_the_same_bits_whichever_batches_it_is_picked_with(dtype: torch.dtype) -> None:
    rows = torch.randn(200, 33, generator=torch.Generator().manual_seed(0)).to(dtype)
    batches = [np.arange(start, start + 5) for start in range(0, 200, 5)]
    weights = torch.randn(7, 33, generator=torch.Generator().manual_seed(1)).to(dtype)

    def products(first: int) -> list[torch.Tensor]:
        return [values @ weights.T for _, (values,) in gather_rows(rows, batches[first:], lambda picked: (picked,))]

    whole = products(0)
    assert len(whole) == len(batches)
    for first in (1, 2, 3):
        assert all(torch.equal(one, other) for one, other in zip(products(first), whole[first:], strict=True))


def test_picked_rows_are_those_asked_for_in_every_value() -> None:
    rows = torch.arange(60).view(20, 3)
    batches = [np.array([3, 1]), np.array([19]), np.array([0, 5, 4])]
    found = list(gather_rows(rows, batches, lambda picked: (picked[:, :1], picked[:, 1:] * 2)))
    assert len(found) == 3
    for batch, (indices, (left, right)) in zip(batches, found, strict=True):
        assert np.array_equal(indices, batch)
        assert torch.equal(left, rows[torch.from_numpy(batch), :1])
        assert torch.equal(right, 2 * rows[torch.from_numpy(batch), 1:])


def test_with_quick_linear_layers_a_run_comes_to_the_same(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_of_linear, "LARGE", 2**10)
    runs = {}
    for quick in (False, True):
        monkeypatch.setattr(module_of_linear, "mkl_is_slow", lambda quick=quick: quick)
        monkeypatch.setattr(module_of_linear, "_product", product := Recorder(module_of_linear._product))
        runs[quick] = train(tiny, tmp_path / f"{quick}", cache="auto", backbone="timm/test_vit", size=160)
        assert hasattr(product, "result") is quick
    assert (weights(runs[True]) - weights(runs[False])).norm() / weights(runs[False]).norm() < 1e-3

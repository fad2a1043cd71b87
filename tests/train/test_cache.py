"""A cached run is the uncached run; tables are filed, found again, and never half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from finetune.deliver.evaluate import evaluate
from finetune.evaluate.judge import judge_images
from finetune.run import run
from finetune.train.store import Layout, Store, in_blocks
from finetune.train.watch import Watch


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages and pictures take longer than these runs and have tests of their own."""
    monkeypatch.setitem(run.__globals__, "publish_report", lambda *_: None)


def train(folder: Path, out: Path, *, cache: Any, backbone: str = "timm/test_resnet", **changes: Any) -> Path:
    augment = changes.pop("augment", "none")
    given = {
        "data": {"folder": str(folder), "split": {"val": 0.25, "test": changes.pop("test", 0.25)}, "augment": augment},
        "model": {
            "backbone": backbone,
            "weights": "none",
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
    return run(given, out=out, watch=Watch(say=lambda text: None))


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


@pytest.mark.parametrize("changes", [{}, {"unfreeze": {"head": 0}, "optimizer": "lbfgs"}, {"lr": 1e-9}, {"ema": 0.9}])
def test_validation_judges_by_what_is_kept_of_it_as_if_by_its_images(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setitem(run.__globals__, "judge_images", judged := Recorder(judge_images))
    folder = train(tiny, tmp_path / "o", cache="auto", precision="bf16", test=0, **changes)
    logits, kept = judged.arguments["logits"], judged.result
    assert logits is not None, "the images were looked at again"
    fresh, split = evaluate(folder)
    assert split == "val"
    np.testing.assert_allclose(kept.probabilities, fresh.probabilities, atol=1e-4)
    assert np.ptp(fresh.probabilities, axis=0).max() > 1e-2, "all images look alike: nothing is shown"


@pytest.mark.parametrize("changes", [{"cache": "off"}, {"test": 0.25}, {"unfreeze": {"all": 0}}])
def test_what_is_not_kept_is_judged_by_its_images(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setitem(run.__globals__, "judge_images", judged := Recorder(judge_images))
    train(tiny, tmp_path / "o", **{"cache": "auto", "test": 0, **changes})
    assert judged.arguments["logits"] is None


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


def test_a_damaged_table_is_not_found(tmp_path: Path) -> None:
    rows = torch.randn(10, 4)
    layout = Layout.of((rows,))
    assert layout is not None
    store = Store(tmp_path / "features", 10**6)
    assert store.file("key", 10, layout, in_blocks(rows, 3))
    found = store.find("key", 10, layout)
    assert found is not None
    assert torch.equal(found, rows)
    assert store.find("other", 10, layout) is None
    assert store.find("key", 11, layout) is None
    path = tmp_path / "features" / "key.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert store.find("key", 10, layout) is None


def test_the_tables_longest_unused_make_room(tmp_path: Path) -> None:
    rows = torch.zeros(100, 10)
    layout = Layout.of((rows,))
    assert layout is not None
    store = Store(tmp_path, 10_000)
    for name in ("a", "b", "c"):
        assert store.file(name, 100, layout, [rows])
    assert [path.stem for path, _ in store.tables()] == ["b", "c"]

"""Abstaining: the curve, the threshold, and that both travel with the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import finetune as ft
from finetune.errors import UsageError
from finetune.evaluate.coverage import FEWEST, answered, auto_threshold, coverage_curve
from finetune.files import read_json
from finetune.recipe.load import from_mapping
from tests.makers import class_folders


def drawn(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Answers of a network that is right as often as it says; confidences are rounded, so that some are equal."""
    random = np.random.default_rng(seed)
    sure = np.round(random.uniform(0.5, 1.0, n), 2)
    chances = np.stack([sure, 1 - sure], axis=1)
    return (random.random(n) > sure).astype(np.int64), chances


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 80), st.integers(0, 1000))
def test_the_curve_is_what_each_threshold_leaves(n: int, seed: int) -> None:
    labels, chances = drawn(n, seed)
    thresholds, shares, accuracies = coverage_curve(labels, chances)
    assert shares[-1] == 1.0
    for threshold, share, accuracy in zip(thresholds, shares, accuracies, strict=True):
        left = answered(labels, chances, threshold)
        assert left.share == pytest.approx(share)
        assert left.accuracy == pytest.approx(accuracy)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 80), st.integers(0, 1000), st.floats(0.5, 1.0))
def test_the_threshold_is_the_lowest_that_reaches_the_target(n: int, seed: int, target: float) -> None:
    labels, chances = drawn(n, seed)
    threshold = auto_threshold(labels, chances, target)
    lower = np.append(chances.max(axis=1), 0.0)
    left = [answered(labels, chances, value) for value in lower]
    enough = min(FEWEST, n / 10)
    reaching = [one.threshold for one in left if (one.accuracy or 0) >= target and one.count >= enough]
    if threshold is None:
        assert not reaching
        return
    assert answered(labels, chances, threshold).accuracy >= target  # type: ignore[operator]  # some are answered, so it is no None
    assert all(
        answered(labels, chances, value).share <= answered(labels, chances, threshold).share for value in reaching
    )


def test_ends() -> None:
    labels, chances = np.array([0, 0]), np.array([[0.9, 0.1], [0.8, 0.2]])
    assert auto_threshold(labels, chances) == 0.0, "all right: every answer is given"
    assert auto_threshold(1 - labels, chances) is None
    assert auto_threshold(np.array([0, 1]), chances) == 0.9
    lucky = np.concatenate([[[0.99, 0.01]], np.tile([[0.6, 0.4]], (99, 1))])
    assert auto_threshold(np.arange(100) % 2, lucky) is None, "one lucky answer is not enough"
    lost = np.array([[np.nan, np.nan], [0.8, 0.2]])
    assert answered(labels, lost, 0.0).count == 1
    assert auto_threshold(labels, lost) == 0.8
    assert auto_threshold(np.empty(0, np.int64), np.empty((0, 2))) is None
    assert answered(np.empty(0, np.int64), np.empty((0, 2)), 0.5).accuracy is None


@pytest.mark.parametrize("value", [0, 2, -0.5, "some", True, [0.5]])
def test_a_threshold_that_is_none_is_refused(value: object) -> None:
    whole = {"data": {"folder": "."}, "model": {"backbone": "small/mlp"}, "report": {"threshold": value}}
    with pytest.raises(UsageError, match=r"report.threshold: expected auto, or a confidence"):
        from_mapping(whole, "recipe")


def test_the_bundle_knows_the_threshold(tmp_path: Path) -> None:
    recipe = {
        "data": {"folder": str(class_folders(tmp_path / "photos", {"ant": 24, "bee": 24})), "augment": "none"},
        "model": {"backbone": "small/logistic"},
        "train": {"epochs": 2},
        "report": {"threshold": "auto"},
    }
    run = ft.run(recipe, out=tmp_path / "run")
    record, described = read_json(run / "run.json"), read_json(run / "model" / "model.json")
    network = ft.load(run).network
    assert described["threshold"] == described["auto_threshold"] == network.threshold == network.auto_threshold
    assert record.get("threshold") == network.threshold
    if network.threshold is None:
        assert any("report.threshold" in line for line in record["warnings"])
    fixed = ft.run({**recipe, "report": {"threshold": 0.8}}, out=tmp_path / "fixed")
    assert ft.load(fixed).network.threshold == 0.8

"""The learning curve: its figures are those of the metrics, its forecast follows a known law and doubts a flat one."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from finetune.evaluate.learning_curve import learning_curve
from finetune.evaluate.metrics import compute_metrics
from finetune.report.sizes import advice, by_size

SIZES = [100, 200, 300, 400]
CLASSES = ["ant", "bee", "<cat>"]


def drawn(shares: list[float], count: int = 1200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and answers of which these shares are wrong, those of a larger set among those of a smaller one."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    luck = random.random(count)
    answers = np.stack([np.where(luck < share, (labels + 1) % 3, labels) for share in shares])
    return labels, answers


def test_each_point_has_the_figures_of_the_metrics_and_of_scikit_learn() -> None:
    labels, answers = drawn([0.4, 0.3, 0.25, 0.2])
    curve = learning_curve(labels, SIZES, answers, CLASSES)
    assert [point["images"] for point in curve["points"]] == SIZES
    for point, given in zip(curve["points"], answers, strict=True):
        metrics = compute_metrics(labels, np.eye(3)[given], CLASSES)
        assert point["accuracy"] == pytest.approx(accuracy_score(labels, given), abs=1e-12)
        assert point["macro_f1"] == pytest.approx(f1_score(labels, given, average="macro"), abs=1e-12)
        assert point["accuracy_ci95"] == pytest.approx(metrics.accuracy_ci95, abs=1e-12)
        assert point["macro_f1_ci95"] == pytest.approx(metrics.macro_f1_ci95, abs=1e-12)


def test_a_known_power_is_found_and_carried_on_to_twice_the_images() -> None:
    labels, answers = drawn([0.4 * (size / 100) ** -0.5 for size in SIZES], count=20_000)
    curve = learning_curve(labels, SIZES, answers, CLASSES)
    assert curve["exponent"] == pytest.approx(0.5, abs=0.03)
    low, high = curve["exponent_ci95"]
    assert low < 0.5 < high
    assert curve["forecast"]["images"] == 800
    assert curve["forecast"]["accuracy"] == pytest.approx(1 - 0.4 * 8**-0.5, abs=0.01)
    assert learning_curve(labels, SIZES, answers, CLASSES) == curve
    assert "Twice the images would bring about" in advice(curve)


def test_the_interval_of_the_forecast_holds_what_the_law_says() -> None:
    shares = [0.3 * (size / 100) ** -0.4 for size in [*SIZES, 800]]
    held = 0
    for seed in range(40):
        labels, answers = drawn(shares, count=300, seed=seed)
        low, high = learning_curve(labels, SIZES, answers[:4], CLASSES)["forecast"]["accuracy_ci95"]
        held += low <= 1 - shares[-1] <= high
    assert held >= 34  # of 40, at 95 %


def test_of_a_flat_curve_it_says_that_more_images_may_not_help() -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, 3, 300)
    answers = np.stack([np.where(random.random(300) < 0.2, (labels + 1) % 3, labels) for _ in SIZES])
    curve = learning_curve(labels, SIZES, answers, CLASSES)
    assert curve["exponent_ci95"][0] <= 0
    assert "not sure to help" in advice(curve)
    assert "Twice" not in advice(curve)
    assert curve["forecast"]["accuracy_ci95"][0] <= curve["points"][-1]["accuracy"]


def test_the_class_that_would_gain_most_is_no_accident_of_few_images() -> None:
    labels = np.repeat([0, 1, 2], [100, 2, 100])
    answers = np.tile(labels, (4, 1))
    answers[:, 0] = 1  # one of a hundred ants
    answers[:, 100] = 0  # one of two bees
    answers[:, 102:142] = 0  # forty of a hundred cats
    helped = learning_curve(labels, SIZES, answers, CLASSES)["most_helped"]
    assert (helped["class"], helped["images"], helped["wrong"]) == ("<cat>", 100, 40)


def test_without_a_mistake_nothing_is_to_be_gained_and_it_is_drawn_all_the_same() -> None:
    labels, answers = drawn([0.0] * 4, count=60)
    curve = learning_curve(labels, SIZES, answers, CLASSES)
    assert curve["most_helped"] is None
    shown = by_size(curve)
    assert "No mistake is left" in shown["said"]
    assert str(shown["picture"]).count("<circle") == 5

"""Intervals: against published and brute-force values."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.metrics import f1_score

from finetune.evaluate.intervals import bootstrap_f1, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_as_published(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_at_the_ends() -> None:
    assert wilson(0, 0) is None
    low, high = wilson(7, 7) or (0, 0)
    assert high == 1.0
    assert low == pytest.approx(1 - (wilson(0, 7) or (0, 0))[1])
    narrow, wide = wilson(7, 10, level=0.5), wilson(7, 10, level=0.99)
    assert narrow is not None
    assert wide is not None
    assert wide[0] < narrow[0] < 0.7 < narrow[1] < wide[1]


def noisy(n: int, classes: int, rate: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    return labels, np.where(random.random(n) < rate, labels, random.integers(0, classes, n))


def test_the_bootstrap_is_resampling_within_the_true_classes() -> None:
    labels, predicted = noisy(300, 3, 0.6)
    predicted[:5] = -1
    random = np.random.default_rng(1)
    places = [np.flatnonzero(labels == c) for c in range(3)]
    scores = []
    for _ in range(2000):  # the same by hand: draw images with replacement, class by class, and score them
        drawn = np.concatenate([random.choice(place, len(place)) for place in places])
        scores.append(f1_score(labels[drawn], predicted[drawn], labels=[0, 1, 2], average=None, zero_division=0))
    expected = np.quantile(scores, [0.025, 0.975], axis=0).T
    np.testing.assert_allclose(bootstrap_f1(labels, predicted, 3, draws=4000), expected, atol=0.012)


def test_the_bootstrap_is_seeded() -> None:
    labels, predicted = noisy(200, 4, 0.5)
    first = bootstrap_f1(labels, predicted, 4, seed=1)
    np.testing.assert_array_equal(first, bootstrap_f1(labels, predicted, 4, seed=1))
    assert (first != bootstrap_f1(labels, predicted, 4, seed=2)).any()


def test_classes_absent_or_never_predicted() -> None:
    labels, predicted = np.array([0, 0, 2, 2]), np.array([0, 1, 0, 0])
    bounds = bootstrap_f1(labels, predicted, 4)
    assert np.isnan(bounds[[1, 3]]).all()
    np.testing.assert_array_equal(bounds[2], [0, 0])
    assert np.isnan(bootstrap_f1(np.empty(0, int), np.empty(0, int), 2)).all()


def test_ten_thousand_images_take_well_under_a_second() -> None:
    labels, predicted = noisy(10_000, 10, 0.8)
    start = time.perf_counter()
    bootstrap_f1(labels, predicted, 10)
    assert time.perf_counter() - start < 1

"""Intervals: against published and brute-force values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from statsmodels.stats.proportion import proportion_confint

from finetune.evaluate.intervals import f1_intervals, macro_f1_interval, wilson


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


@pytest.mark.parametrize(("successes", "n"), [(0, 5), (7, 9), (33, 33), (950, 1000)])
def test_wilson_as_statsmodels_has_it(successes: int, n: int) -> None:
    assert wilson(successes, n) == pytest.approx(proportion_confint(successes, n, 0.05, method="wilson"), abs=1e-9)


def test_wilson_at_the_ends() -> None:
    assert wilson(0, 0) is None
    low, high = wilson(7, 7) or (0, 0)
    assert high == 1.0
    assert low == pytest.approx(1 - (wilson(0, 7) or (0, 0))[1])
    narrow, wide = wilson(7, 10, level=0.5), wilson(7, 10, level=0.99)
    assert narrow is not None
    assert wide is not None
    assert wide[0] < narrow[0] < 0.7 < narrow[1] < wide[1]


RATES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


def coverage(support: int, classes: int, rate: float, draws: int) -> tuple[float, float]:
    """How often the intervals of F1 and of macro F1 hold the true ones, in simulated tests."""
    random = np.random.default_rng(support * 1000 + classes)
    shares = np.full((classes, classes), (1 - rate) / (classes - 1))
    np.fill_diagonal(shares, rate)
    supports = np.full(classes, support)
    truth = rate  # precision is the same as recall here, so F1 is, too
    known: dict[bytes, tuple[float, float]] = {}
    covered = np.zeros(2)
    for _ in range(draws):
        confusion = np.stack([random.multinomial(support, row) for row in shares])
        key = confusion.tobytes()
        if key not in known:
            low, high = f1_intervals(confusion, supports).T
            macro = macro_f1_interval(confusion, supports)
            assert macro is not None
            inside = macro[0] - 1e-12 <= truth <= macro[1] + 1e-12
            known[key] = (float(((low <= truth + 1e-12) & (truth <= high + 1e-12)).mean()), float(inside))
        covered += known[key]
    return float(covered[0] / draws), float(covered[1] / draws)


@pytest.mark.parametrize(("support", "classes"), [(3, 2), (5, 3), (12, 2), (50, 2)])
def test_the_intervals_of_f1_and_macro_f1_cover(support: int, classes: int) -> None:
    found = np.array([coverage(support, classes, rate, 500) for rate in RATES])
    assert (found.mean(axis=0) >= 0.93).all()
    assert (found >= 0.90).all()


def test_no_interval_has_no_width() -> None:
    for confusion in (np.diag([4, 5, 30]), np.array([[0, 4, 0], [5, 0, 0], [0, 30, 0]])):
        support = confusion.sum(axis=1)
        low, high = f1_intervals(confusion, support).T
        macro = macro_f1_interval(confusion, support)
        assert macro is not None
        assert (high - low > 0.05).all()
        assert macro[1] - macro[0] > 0.03
        rate = float(np.trace(confusion) > 0)
        assert (low <= rate).all()
        assert (rate <= high).all()
        assert macro[0] <= rate <= macro[1]


def test_f1_of_one_class_against_the_proportion_it_comes_from() -> None:
    confusion, support = np.array([[17, 3], [2, 28]]), np.array([20, 30])
    low, high = proportion_confint(17, 17 + 3 + 2, 0.05, method="jeffreys")
    assert f1_intervals(confusion, support)[0] == pytest.approx((2 * low / (1 + low), 2 * high / (1 + high)), abs=1e-9)


def test_macro_f1_of_two_equal_classes_is_as_sure_as_its_variance() -> None:
    confusion, support = np.array([[80, 20], [20, 80]]), np.array([100, 100])
    random = np.random.default_rng(0)
    drawn = np.stack([random.multinomial(100, row / 100, 4000) for row in confusion], axis=1)
    hits = drawn[:, [0, 1], [0, 1]]
    scores = (2 * hits / (drawn.sum(axis=1) + 100)).mean(axis=1)
    interval = macro_f1_interval(confusion, support)
    assert interval == pytest.approx(tuple(np.quantile(scores, [0.025, 0.975])), abs=0.015)


@settings(deadline=None, max_examples=60)
@given(arrays(np.int64, (3, 3), elements=st.integers(0, 12)), st.integers(0, 3))
def test_intervals_hold_the_estimate_and_stay_in_range(confusion: np.ndarray, unanswered: int) -> None:
    support = confusion.sum(axis=1)
    support[0] += unanswered
    bounds, macro = f1_intervals(confusion, support), macro_f1_interval(confusion, support)
    assert np.isnan(bounds[support == 0]).all()
    assert (macro is None) == (support.sum() == 0)
    if macro is None:
        return
    present = support > 0
    f1 = 2 * np.diag(confusion)[present] / (confusion.sum(axis=0) + support)[present]
    low, high = bounds[present].T
    assert (low >= 0).all()
    assert (low <= f1 + 1e-12).all()
    assert (f1 <= high + 1e-12).all()
    assert (high <= 1).all()
    assert 0 <= macro[0] <= f1.mean() + 1e-12
    assert f1.mean() - 1e-12 <= macro[1] <= 1

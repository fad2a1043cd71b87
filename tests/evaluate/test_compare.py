"""Comparisons: the tests against statsmodels, the intervals and the size of the tests by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests

from finetune.evaluate.compare import Difference, compare_answers, holm, images_needed, macro_f1, mcnemar


def answers(random: np.random.Generator, labels: np.ndarray, hard: np.ndarray, skill: float) -> np.ndarray:
    """The answers of a classifier: right where an image is no harder than it can take."""
    right = random.normal(skill, 0.5, len(labels)) > hard
    return np.where(right, labels, (labels + 1) % 3)


def drawn(seed: int, n: int, *skills: float) -> tuple[np.ndarray, list[np.ndarray]]:
    random = np.random.default_rng(seed)
    labels, hard = random.integers(0, 3, n), random.normal(0, 1, n)
    return labels, [answers(random, labels, hard, skill) for skill in skills]


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 9), (12, 12), (30, 11), (0, 4)])
def test_mcnemar_is_that_of_statsmodels(first: int, second: int) -> None:
    theirs = their_mcnemar([[50, first], [second, 3]], exact=True).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(min(theirs, 1.0), abs=1e-9)


def test_holm_is_that_of_statsmodels() -> None:
    values = [0.04, 0.001, 0.3, 0.02, 0.02, 0.9]
    assert holm(values) == pytest.approx(multipletests(values, method="holm")[1], abs=1e-9)
    assert holm([]) == []


def test_macro_f1_is_that_of_scikit_learn() -> None:
    labels, (first,) = drawn(0, 90, 1.0)
    first[:3] = -1
    theirs = f1_score(labels, first, labels=[0, 1, 2], average="macro", zero_division=0)
    assert macro_f1(labels, first, 4) == pytest.approx(theirs, abs=1e-9)


def test_the_bootstrap_agrees_with_drawing_images_by_hand() -> None:
    labels, (first, second) = drawn(1, 240, 0.3, 0.8)
    found = compare_answers(labels, first[None], second[None], 3)
    random = np.random.default_rng(5)
    places = [np.flatnonzero(labels == label) for label in range(3)]
    by_hand = []
    for _ in range(1500):
        rows = np.concatenate([random.choice(own, len(own)) for own in places])
        truth, one, two = labels[rows], first[rows], second[rows]
        f1 = macro_f1(truth, two, 3) - macro_f1(truth, one, 3)
        by_hand.append(((two == truth).mean() - (one == truth).mean(), f1))
    expected = np.quantile(by_hand, [0.025, 0.975], axis=0)
    assert found.accuracy_ci95 == pytest.approx(tuple(expected[:, 0]), abs=0.012)
    assert found.macro_f1_ci95 == pytest.approx(tuple(expected[:, 1]), abs=0.012)
    assert found == compare_answers(labels, first[None], second[None], 3), "it is seeded"


def test_the_same_answers_are_no_proof_of_equality() -> None:
    labels, (first,) = drawn(2, 60, 0.5)
    found = compare_answers(labels, first[None], first[None], 3)
    assert (found.accuracy, found.p, found.only_first, found.only_second) == (0, 1, 0, 0)
    assert found.accuracy_ci95[0] < -0.01
    assert found.accuracy_ci95[1] > 0.01
    assert images_needed(60, found) is None


def test_a_weaker_network_is_named() -> None:
    labels, (first, second) = drawn(3, 300, 1.0, 0.25)
    found = compare_answers(labels, first[None], second[None], 3)
    assert found.accuracy < -0.1
    assert found.p < 0.01
    assert found.accuracy_ci95[1] < 0


@pytest.mark.parametrize("seeds", [(1, 1), (3, 3), (4, 1)])
def test_the_size_of_the_test_under_the_null(seeds: tuple[int, int]) -> None:
    """No more than 6 % of comparisons of equals may come out at 5 %; the seeds of a side differ in skill."""
    false, tests = 0, 250
    for test in range(tests):
        random = np.random.default_rng(1000 + test)
        labels, hard = random.integers(0, 3, 120), random.normal(0, 1, 120)
        sides = [
            np.stack([answers(random, labels, hard, random.normal(0.5, 0.15 * (max(seeds) > 1))) for _ in range(count)])
            for count in seeds
        ]
        false += compare_answers(labels, sides[0], sides[1], 3, draws=20).p < 0.05
    assert false / tests <= 0.06


def test_several_seeds_find_what_is_there() -> None:
    labels, sides = drawn(4, 400, 0.2, 0.25, 0.15, 0.9, 0.95, 0.85)
    found = compare_answers(labels, np.stack(sides[:3]), np.stack(sides[3:]), 3)
    assert found.seeds
    assert found.p < 0.01
    assert found.accuracy_ci95[0] > 0
    assert found.macro_f1_ci95[0] > 0
    assert found.accuracy == pytest.approx(
        np.mean([(side == labels).mean() for side in sides[3:]])
        - np.mean([(side == labels).mean() for side in sides[:3]])
    )


def test_the_number_of_images_needed_gives_the_power_it_promises() -> None:
    rates = (0.12, 0.05)  # only the first is right, only the second is
    n = images_needed(1000, Difference(-0.07, (0, 0), 0, (0, 0), 1.0, 120, 50, False))
    assert n is not None
    random = np.random.default_rng(0)
    drawn = random.multinomial(n, [*rates, 1 - sum(rates)], 400)
    power = np.mean([mcnemar(int(a), int(b)) < 0.05 for a, b, _ in drawn])
    assert 0.7 < power < 0.88
    assert math.isfinite(n)

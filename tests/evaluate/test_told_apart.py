"""Twins under two names are found, classes that differ are not, and few images prove nothing."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.evaluate.told_apart import LEVEL, LIMIT, confusable_classes
from finetune.train.head_solver import unseen_answers


def answers_for(labels: np.ndarray, shift: float, rng: np.random.Generator) -> np.ndarray:
    """Probabilities of two classes whose scores lie so many deviations apart."""
    chances = 1 / (1 + np.exp(-(rng.normal(size=len(labels)) + shift * (labels == 0))))
    return np.stack([chances, 1 - chances], axis=1)


@pytest.mark.parametrize("counts", [(60, 60, 60, 60), (160, 40, 60, 60)])
def test_one_kind_under_two_names_is_found_and_nothing_else(counts: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(4), counts)
    kinds = np.array([0, 0, 1, 2])[labels]  # classes 0 and 1 show the same
    features = rng.normal(size=(len(labels), 24)) + 2 * np.eye(3, 24)[kinds]
    (pair,) = confusable_classes(labels, unseen_answers(features, labels, range(len(labels))))
    assert (pair.first, pair.second, pair.above_chance) == (0, 1, False)
    assert pair.mistaken
    assert set(labels[list(pair.mistaken)]) <= {0, 1}


def test_classes_that_are_told_apart_are_not_found_and_few_images_prove_nothing() -> None:
    rng = np.random.default_rng(0)
    for images, separation in ((60, 1.5), (8, 0.0)):
        labels = np.repeat(np.arange(3), images)
        features = rng.normal(size=(len(labels), 24)) + separation * np.eye(3, 24)[labels]
        assert confusable_classes(labels, unseen_answers(features, labels, range(len(labels)))) == []


def test_at_the_limit_a_pair_is_found_as_seldom_as_the_level_says_and_below_it_mostly() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 50)
    at_limit = 2**0.5 * 0.5244  # deviations at which the AUC is 0.7
    assert LIMIT == 0.7
    shares = [
        np.mean([len(confusable_classes(labels, answers_for(labels, shift, rng))) for _ in range(400)])
        for shift in (at_limit, 0.0)
    ]
    assert shares[0] < LEVEL + 0.025
    assert shares[1] > 0.9


def test_hardly_is_said_where_it_is_more_than_chance() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 500)
    (pair,) = confusable_classes(labels, answers_for(labels, 0.36, rng))
    assert 0.55 < pair.auc < 0.65
    assert pair.above_chance

"""Average precision, ROC AUC, top-k and Brier score, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, top_k_accuracy_score

from finetune.evaluate.metrics import brier_score, compute_metrics
from finetune.evaluate.ranking import ranking_scores, top_k


def drawn(n: int, classes: int, ties: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    logits = random.normal(size=(n, classes))
    logits[np.arange(n), labels] += 1.0
    if ties:
        logits = np.round(logits)
    chances = np.exp(logits)
    return labels, chances / chances.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("ties", [False, True])
def test_scores_of_each_class_are_those_of_scikit_learn(ties: bool) -> None:
    labels, chances = drawn(211, 4, ties)
    precision, area = ranking_scores(labels, chances)
    for label in range(4):
        own = labels == label
        assert precision[label] == pytest.approx(average_precision_score(own, chances[:, label]), abs=1e-9)
        assert area[label] == pytest.approx(roc_auc_score(own, chances[:, label]), abs=1e-9)


def test_top_k_is_that_of_scikit_learn() -> None:
    labels, chances = drawn(150, 7, False)
    found = top_k(labels, chances)
    assert set(found) == {"2", "3", "5"}
    for k, share in found.items():
        assert share == pytest.approx(top_k_accuracy_score(labels, chances, k=int(k)), abs=1e-9)


def test_top_k_counts_equals_as_predict_does() -> None:
    chances = np.full((3, 4), 0.25)
    assert top_k(np.array([0, 1, 2]), chances) == {"2": pytest.approx(2 / 3), "3": 1.0}


def test_the_brier_score_by_its_definition() -> None:
    labels, chances = drawn(90, 5, False)
    truth = np.eye(5)[labels]
    assert brier_score(labels, chances) == pytest.approx(float(((chances - truth) ** 2).sum(axis=1).mean()), abs=1e-9)


def test_classes_without_images_and_answers_that_are_no_numbers() -> None:
    labels = np.array([0, 0, 1])
    chances = np.array([[0.9, 0.1, 0.0], [np.nan] * 3, [0.2, 0.8, 0.0]])
    precision, area = ranking_scores(labels, chances)
    assert np.isnan(precision[2])
    assert np.isnan(area[2])
    assert precision[1] == area[1] == 1.0
    assert top_k(labels, chances) == {"2": pytest.approx(2 / 3)}
    metrics = compute_metrics(labels, chances, ["a", "b", "c"])
    assert metrics.brier is None
    assert metrics.as_dict("test")["per_class"][2]["roc_auc"] is None
    assert np.isnan(ranking_scores(np.zeros(3, int), np.ones((3, 1)))[1]).all()

"""What a public object shows of itself at a prompt: one short line, and nothing of a file's name that could act."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from finetune.deliver.predict import Prediction
from finetune.evaluate.evaluation import Evaluation
from finetune.evaluate.metrics import compute_metrics

LABELS, ANSWERS = np.array([0, 1, 1, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3]])


def metrics(labels: np.ndarray, answers: np.ndarray) -> Any:
    return compute_metrics(labels, answers, ["cat", "dog"])


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (Prediction("a.jpg", "cat", 0.75, {"cat": 0.75, "dog": 0.25}), "Prediction('a.jpg', 'cat', 0.7500)"),
        (Prediction("", None, 0.4, abstained=True), "Prediction(no label, 0.4000, abstained)"),
        (Prediction("\x1b[2J.jpg", error="not an image"), "Prediction('\\x1b[2J.jpg', error: not an image)"),
    ],
)
def test_a_prediction_shows_its_answer(shown: Prediction, words: str) -> None:
    assert repr(shown).replace("\\\\", "\\") == words
    assert repr(shown).isprintable()


def test_metrics_and_evaluation_show_their_figures() -> None:
    found = metrics(LABELS, ANSWERS)
    assert repr(found).startswith("Metrics(4 images, 2 classes, accuracy 0.7500, macro F1 0.7333, loss ")
    told = repr(Evaluation(["a"], LABELS, ANSWERS, found, ["one"]))
    assert told == f"Evaluation({found!r}, cautions: 1)"


def test_metrics_of_nothing_show_no_figures() -> None:
    assert repr(metrics(LABELS[:0], ANSWERS[:0])) == "Metrics(0 images, 2 classes)"

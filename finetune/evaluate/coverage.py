"""Coverage and accuracy: withholding unsure answers makes the others more often right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finetune.evaluate.intervals import wilson
from finetune.evaluate.metrics import predict

TARGET = 0.95
"""Share of right answers that the automatic threshold is to reach."""

FEWEST = 20
"""Answers that a threshold must leave on the images that it is found on."""


@dataclass(frozen=True)
class Answered:
    """Share and accuracy of the answers that are left where those below `threshold` are withheld.

    Attributes:
        threshold: a confidence; answers of at least this much are given.
        share: of the images that are answered.
        accuracy: of the answers that are given; None where there is none.
        accuracy_ci95: its Wilson interval.
        count: answers that are given.
    """

    threshold: float
    share: float
    accuracy: float | None
    accuracy_ci95: tuple[float, float] | None
    count: int


def answered(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> Answered:
    """The answers that a threshold leaves.

    Args:
        labels: int64 [N].
        probabilities: float64 [N, C]; a row that is not finite has no confidence and is withheld.
        threshold: in [0, 1].
    """
    given = _confidence(probabilities) >= threshold
    right, count = int((predict(probabilities) == labels)[given].sum()), int(given.sum())
    interval = wilson(right, count)
    return Answered(threshold, count / max(len(labels), 1), right / count if count else None, interval, count)


def coverage_curve(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Accuracy against the share of images answered, as the threshold falls.

    Returns:
        Thresholds, shares and accuracies, float64 [K] each, by rising share; equal confidences share one point.
    """
    confidence = _confidence(probabilities)
    order = np.argsort(-confidence, kind="stable")
    order = order[confidence[order] >= 0]
    if not len(order):
        return np.empty(0), np.empty(0), np.empty(0)
    ends = np.append(np.flatnonzero(np.diff(confidence[order])), len(order) - 1)
    right = np.cumsum((predict(probabilities) == labels)[order])[ends]
    return confidence[order][ends], (ends + 1) / len(labels), right / (ends + 1)


def auto_threshold(labels: np.ndarray, probabilities: np.ndarray, target: float = TARGET) -> float | None:
    """The lowest confidence at which the answers given are right in `target` of the cases; 0 where all may be given.

    None where no confidence reaches it for `FEWEST` images, or a tenth of all if these are fewer: a single lucky answer
    is no reason to believe in it.
    """
    thresholds, shares, accuracies = coverage_curve(labels, probabilities)
    enough = shares * len(labels) >= min(FEWEST, len(labels) / 10) - 1e-9
    reached = np.flatnonzero((accuracies >= target) & enough)
    if not len(reached):
        return None
    last = int(reached[-1])
    return 0.0 if last == len(shares) - 1 and shares[last] == 1 else float(thresholds[last])


def _confidence(probabilities: np.ndarray) -> np.ndarray:
    """The largest probability of each row; -1 where there is no answer."""
    finite = np.isfinite(probabilities).all(axis=1)
    confidence = np.full(len(probabilities), -1.0)
    if finite.any():
        confidence[finite] = probabilities[finite].max(axis=1)
    return confidence

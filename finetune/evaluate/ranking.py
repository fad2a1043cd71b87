"""How well the probabilities rank: average precision and ROC AUC of each class against the rest, and top-k accuracy."""

from __future__ import annotations

import numpy as np

TOP = (2, 3, 5)
"""The k of top-k accuracy; those below the number of classes are told."""


def ranking_scores(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average precision and area under the ROC curve of each class, by its probability, against all other classes.

    As scikit-learn's `average_precision_score` (no interpolation) and `roc_auc_score`; images of equal probability
    share one threshold. A row that is not finite ranks last.

    Args:
        labels: int64 [N].
        probabilities: float64 [N, C].

    Returns:
        Two arrays, float64 [C]; NaN for a class with no image, and for the AUC of one that has all of them.
    """
    precision, area = np.full((2, probabilities.shape[1]), np.nan)
    scores = np.where(np.isfinite(probabilities), probabilities, -1.0)
    for label in range(probabilities.shape[1]):
        positive = labels == label
        count = int(positive.sum())
        if not count:
            continue
        order = np.argsort(-scores[:, label], kind="stable")
        ends = np.append(np.flatnonzero(np.diff(scores[order, label])), len(labels) - 1)
        hits = np.cumsum(positive[order])[ends]
        named = ends + 1.0
        precision[label] = (np.diff(hits, prepend=0) * hits / named).sum() / count
        if count < len(labels):
            misses = named - hits
            heights = hits + np.append(0, hits[:-1])
            area[label] = (np.diff(misses, prepend=0) * heights).sum() / (2 * count * (len(labels) - count))
    return precision, area


def top_k(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """k → share of the images whose class is among the k most probable ones, for each k of `TOP` that is a question."""
    if not len(labels):
        return {}
    scores = np.where(np.isfinite(probabilities), probabilities, -1.0)
    own = scores[np.arange(len(labels)), labels]
    above = (scores > own[:, None]).sum(axis=1)
    # of equals the first counts as the more probable, as in `predict`
    before = (scores == own[:, None]) & (np.arange(scores.shape[1]) < labels[:, None])
    rank = np.where(own < 0, scores.shape[1], above + before.sum(axis=1))
    return {str(k): float((rank < k).mean()) for k in TOP if k < probabilities.shape[1]}

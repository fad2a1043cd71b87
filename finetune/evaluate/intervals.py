"""95 % intervals beside every rate: Wilson for proportions, a stratified bootstrap for F1."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float] | None:
    """The score interval of a proportion; unlike the normal one it is right for few trials and for rates near 0 or 1.

    Wilson 1927; Brown, Cai and DasGupta 2001 recommend it for small n.

    Returns:
        low and high in [0, 1]; None without a trial.
    """
    if n == 0:
        return None
    z = NormalDist().inv_cdf(0.5 + level / 2)
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # At the ends the exact bound is the end itself; rounding must not move it.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def bootstrap_f1(
    labels: np.ndarray, predicted: np.ndarray, n_classes: int, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> np.ndarray:
    """Percentile intervals of each class's F1 under resampling of the images within each true class.

    Drawing n images of a class with replacement and counting their predictions is one multinomial draw from that row
    of the confusion matrix, so the cost does not grow with the number of images. A class without any error gets
    [1, 1]: the bootstrap cannot imagine the mistake it has not seen (the Wilson interval of the recall can).

    Args:
        labels: int64 [N].
        predicted: int64 [N]; -1 where nothing was predicted.
        n_classes: number of classes.
        draws: bootstrap samples.
        seed: of the samples.
        level: of the interval.

    Returns:
        float64 [C, 2], low and high; NaN for a class without images.
    """
    random = np.random.default_rng(np.random.SeedSequence(seed))
    hits = np.zeros((draws, n_classes))
    named = np.zeros((draws, n_classes))
    support = np.bincount(labels, minlength=n_classes)
    for truth in np.flatnonzero(support):
        answers, counts = np.unique(predicted[labels == truth], return_counts=True)
        drawn = random.multinomial(support[truth], counts / support[truth], size=draws)
        some = answers >= 0
        named[:, answers[some]] += drawn[:, some]
        hits[:, truth] = drawn[:, answers == truth].sum(axis=1)
    present = support > 0
    bounds = np.full((n_classes, 2), np.nan)
    f1 = 2 * hits[:, present] / (named[:, present] + support[present])  # 2TP + FP + FN = named + support
    if present.any():
        bounds[present] = np.quantile(f1, [0.5 - level / 2, 0.5 + level / 2], axis=0).T
    return bounds

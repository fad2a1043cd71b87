"""95 % intervals beside every rate: Wilson for proportions, beta quantiles for F1 and its mean.

An interval of no width is none: where every answer was right, or none, the interval must still say how little a few
images can tell. The bootstrap cannot (it never draws the mistake that it has not seen), so F1 goes another way.

F1 of a class is a monotone function of J = TP / (TP + FP + FN): F1 = 2J / (1 + J). Given its denominator J is a
proportion, and an interval of a proportion carries over (Lam, Gopal and Qian 2023, "Confidence Intervals for the F1
Score"). That ignores that the number of images of the class is fixed, which makes it a little too wide, never too
narrow. We take Jeffreys' interval with its ends moved where all or none is right (Brown, Cai and DasGupta 2001).

Macro F1 is no proportion. It gets the variance that its classes' mistakes give it, each counted in both classes that it
touches, and the exact interval of a proportion from as many images as would have that variance: the effective sample
size of Korn and Graubard 1998.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from scipy.special import betaincinv  # quantiles of the beta distribution; scipy.stats would take a second to import

LEVEL = 0.95


def wilson(successes: int, n: int, level: float = LEVEL) -> tuple[float, float] | None:
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


def f1_intervals(confusion: np.ndarray, support: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """An interval for the F1 of each class.

    Args:
        confusion: int64 [C, C], rows = truth.
        support: int64 [C], images of each class; more than the row's sum where some had no answer.
        level: of the intervals.

    Returns:
        float64 [C, 2], low and high; NaN for a class without images.
    """
    hits = np.diag(confusion).astype(np.float64)
    trials = confusion.sum(axis=0) + support - hits  # TP + FP + FN
    tail = (1 - level) / 2
    # F1 = 2J / (1 + J) for J = TP / (TP + FP + FN), which is a plain proportion: its interval is carried over.
    # Jeffreys' prior adds half a hit and half a miss; where all or none are hits, the exact bound, which is wider, is
    # taken.
    with np.errstate(invalid="ignore", divide="ignore"):
        low = betaincinv(hits + 0.5, trials - hits + 0.5, tail)
        high = betaincinv(hits + 0.5, trials - hits + 0.5, 1 - tail)
        low = np.where(hits == 0, 0.0, np.where(hits == trials, tail ** (1 / trials), low))
        high = np.where(hits == trials, 1.0, np.where(hits == 0, 1 - tail ** (1 / trials), high))
    bounds = np.stack([2 * low / (1 + low), 2 * high / (1 + high)], axis=1)
    bounds[support == 0] = np.nan
    return bounds


def macro_f1_interval(confusion: np.ndarray, support: np.ndarray, level: float = LEVEL) -> tuple[float, float] | None:
    """An interval for the mean F1 over the classes that have images; arguments as in `f1_intervals`.

    Returns:
        low and high in [0, 1]; None without an image.
    """
    present = support > 0
    if not present.any():
        return None
    hits, named = np.diag(confusion), confusion.sum(axis=0)
    f1 = (2 * hits[present] / (named + support)[present]).mean()
    n = _effective_images(confusion, support)
    # Clopper and Pearson's interval for so many trials, which need not be a whole number
    right, wrong, tail = f1 * n, (1 - f1) * n, (1 - level) / 2
    low = 0.0 if f1 == 0 else float(betaincinv(right, wrong + 1, tail))
    high = 1.0 if f1 == 1 else float(betaincinv(right + 1, wrong, 1 - tail))
    return low, high


def _effective_images(confusion: np.ndarray, support: np.ndarray) -> float:
    """As many images as would give a plain proportion the variance that macro F1 has here.

    Each class is credited with one more image, half of it right, so that what has not been seen is not impossible.
    """
    present, classes = support > 0, len(support)
    unseen = np.full((classes, classes), 0.5 / max(classes - 1, 1))
    np.fill_diagonal(unseen, 0.5)
    shares = (confusion + unseen) / (support[:, None] + 1.0)
    expected = shares * support[:, None]
    hits, total = np.diag(expected), expected.sum(axis=0) + support
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = np.where(present, 2 * hits / total, 0.0)
        named = np.where(present, -2 * hits / total**2, 0.0)  # what one more answer of this name does to its F1
        right = np.where(present, 2 / total, 0.0)  # and what it adds if it is right
    effect = np.tile(named, (classes, 1)) + np.diag(right)
    # the delta method: macro F1 is linear in the counts for small changes, and the answers to a class are multinomial
    spread = (shares * effect**2).sum(axis=1) - (shares * effect).sum(axis=1) ** 2
    mean, count = rates.sum() / present.sum(), present.sum()
    variance = float((support * spread).sum()) / count**2
    return float(mean * (1 - mean) / variance) if variance > 0 else float(support.sum())

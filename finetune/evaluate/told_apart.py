"""Which classes cannot be told apart: pairs whose images are ranked hardly better than by chance.

Of two images, one of each class, a classifier that has seen neither says which is which; the share that it gets right
is the area under the ROC curve (AUC), 0.5 by chance. It does not depend on how many images a class has, as accuracy
does. To find nothing wrong is no proof: with few images any difference may be chance. So a pair is only found where an
AUC of `LIMIT` or more is ruled out, by a one-sided test with the variance of Hanley and McNeil (1982), and the level is
divided by the number of pairs (Bonferroni): in one data set of twenty some pair would come out wrongly at most.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

LIMIT = 0.7
"""The AUC that must be ruled out; below it, three of ten such pairs of images at least are taken for each other."""

LEVEL = 0.05
"""Chance that any pair is found although its AUC is `LIMIT`."""

SHOWN = 5
"""Images of each class that are named as examples."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Confusable:
    """Two classes that are hardly told apart.

    Attributes:
        first, second: the classes, first < second.
        auc: share of pairs of images, one of each, that are told apart.
        above_chance: whether the AUC is above 0.5 by more than chance (one-sided, Mann and Whitney, 5 %).
        mistaken: positions of images of the first and then of the second class that are surest taken for the other.
    """

    first: int
    second: int
    auc: float
    above_chance: bool
    mistaken: tuple[int, ...]


def confusable_classes(labels: Array, answers: Array) -> list[Confusable]:
    """The pairs of classes that are hardly told apart, the worst first.

    Args:
        labels: int64 [N], 0 to classes - 1.
        answers: float64 [N, classes], probabilities by a head that has not seen the image.
    """
    logs = np.log(np.maximum(answers, np.finfo(np.float64).tiny))
    pairs = list(itertools.combinations(np.unique(labels).tolist(), 2))
    found = []
    for a, b in pairs:
        ahead = logs[:, a] - logs[:, b]
        own, other = ahead[labels == a], ahead[labels == b]
        auc = _auc(own, other)
        # below 0.5 is chance, and cross-validation of what has no signal tends to it
        if _chance_below(max(auc, 0.5), LIMIT, len(own), len(other)) < LEVEL / len(pairs):
            above = _chance_below(1 - auc, 0.5, len(own), len(other)) < LEVEL
            mistaken = (*_surest(labels == a, -ahead), *_surest(labels == b, ahead))
            found.append(Confusable(a, b, auc, above, mistaken))
    return sorted(found, key=lambda pair: (pair.auc, pair.first, pair.second))


def _auc(high: Array, low: Array) -> float:
    """Share of pairs in which the value of `high` is above that of `low`; ties count half."""
    ordered = np.sort(low)
    below, up_to = (np.searchsorted(ordered, high, side=side).sum() for side in ("left", "right"))
    return float(below + up_to) / (2 * len(high) * len(low))


def _chance_below(auc: float, truth: float, n: int, m: int) -> float:
    """Chance of such an AUC or a lower one, of so many images of each class, where `truth` is the true one.

    The variance is that of Hanley and McNeil.
    """
    one, two = truth / (2 - truth), 2 * truth**2 / (1 + truth)
    variance = (truth * (1 - truth) + (n - 1) * (one - truth**2) + (m - 1) * (two - truth**2)) / (n * m)
    return NormalDist().cdf((auc - truth) / math.sqrt(variance))


def _surest(own: Array, ahead: Array) -> tuple[int, ...]:
    """The images of a class, bool [N], that another class is the most ahead of, if it is ahead at all."""
    order = np.argsort(-np.where(own, ahead, -np.inf), kind="stable")[:SHOWN]
    return tuple(int(place) for place in order if own[place] and ahead[place] > 0)

"""What it changes that images of one group stay together: the score of a random split beside the grouped one.

Both are of the same images, answered by heads that learned from as many of them; only in the one case from others of
the same group. The interval of the difference comes from the spread between groups (a cluster-robust variance, Liang
and Zeger 1986, with a t quantile for few groups), as images of a group are not independent of each other.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.special import stdtrit  # quantiles of Student's t; scipy.stats would take a second to import


def grouping(labels: np.ndarray, groups: np.ndarray, grouped: np.ndarray, random: np.ndarray) -> dict[str, Any]:
    """The entry `grouping` of `metrics.json`.

    Args:
        labels: int64 [N].
        groups: int64 [N], the same number for images that stay together; two groups at least.
        grouped: int64 [N], the class that each image was given by a head that had not learned from its group.
        random: int64 [N], by a head that may have learned from other images of its group.

    Returns:
        `n`, `groups`, `accuracy` with groups kept together, `accuracy_random_split`, `difference` (the second less the
        first) with its 95 % interval, and whether it `matters`: whether the interval lies above 0.
    """
    gain = (random == labels).astype(np.float64) - (grouped == labels)
    n, change = len(labels), float(gain.mean())
    count = len(np.unique(groups))
    within = np.bincount(np.unique(groups, return_inverse=True)[1], weights=gain - change)
    # as if one image more flipped each way: what never differed so far is not known never to differ
    error = math.sqrt((float(within @ within) * count / (count - 1) + 2) / n**2)
    half = float(stdtrit(count - 1, 0.975)) * error
    return {
        "n": n,
        "groups": count,
        "accuracy": float((grouped == labels).mean()),
        "accuracy_random_split": float((random == labels).mean()),
        "difference": change,
        "difference_ci95": [max(-1.0, change - half), min(1.0, change + half)],
        "matters": change - half > 0,
    }

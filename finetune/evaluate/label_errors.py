"""Labels that are probably wrong: a head that has not seen the image, and its nearest neighbours, both deny them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

NEIGHBOURS = 10

DENIED = 0.2
"""Share of the neighbours that may have the label that is given."""

OFTEN_MISTAKEN = 0.03
"""Share of the images of two classes taken for the other from which on one more says little about its label."""

DENIED_THEN, AGREED_THEN = 0.1, 0.7
"""Shares of the neighbours that may have the given label then, and that must have the likely one."""


@dataclass(frozen=True)
class Suspect:
    """An image whose label is probably wrong.

    Attributes:
        index: position of the image.
        given: its label.
        likely: the label that it probably should have.
        confidence: out-of-fold probability of the likely label.
        score: how far the likely label is ahead of the given one, head and neighbours together, at most 2.
    """

    index: int
    given: int
    likely: int
    confidence: float
    score: float


def neighbour_shares(features: Array, labels: Array, k: int = NEIGHBOURS) -> Array:
    """For each image the share of each class among its `k` nearest by cosine, itself left out, float64 [N, classes]."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    k = min(k, len(labels) - 1)
    shares = np.zeros((len(labels), int(labels.max()) + 1))
    for start in range(0, len(unit), 1024):
        close = unit[start : start + 1024] @ unit.T
        close[np.arange(len(close)), np.arange(start, start + len(close))] = -np.inf
        near = np.argpartition(-close, k - 1, axis=1)[:, :k]
        for row, places in enumerate(near, start):
            shares[row] = np.bincount(labels[places], minlength=shares.shape[1]) / k
    return shares


def label_suspects(features: Array, labels: Array, answers: Array) -> list[Suspect]:
    """The images whose label is probably wrong, surest first.

    As confident learning has it (Northcutt, Jiang and Chuang 2021), another class must reach the confidence that it
    has on average where it is given; and the nearest neighbours must deny the given label as well, which leaves out
    images that are merely hard. Of two classes that are often taken for each other, nearly all neighbours must.

    Args:
        features: float [N, features].
        labels: int [N], 0 to classes - 1.
        answers: float [N, classes], probabilities by a head that has not seen the image.
    """
    if len(np.unique(labels)) < 2 or np.bincount(labels).min() < 2:
        return []
    shares = neighbour_shares(features, labels)
    usual = np.array([answers[labels == name, name].mean() for name in range(answers.shape[1])])
    mistaken = mistaken_shares(labels, answers)
    suspects = []
    for index, (given, likely) in enumerate(zip(labels.tolist(), answers.argmax(axis=1).tolist(), strict=True)):
        hard = mistaken[given, likely] > OFTEN_MISTAKEN
        denied = shares[index, given] <= (DENIED_THEN if hard else DENIED)
        ahead = shares[index, likely] - shares[index, given]
        agreed = ahead > 0 and not (hard and shares[index, likely] < AGREED_THEN)
        if likely == given or answers[index, likely] < usual[likely] or not denied or not agreed:
            continue
        score = float(answers[index, likely] - answers[index, given] + ahead)
        suspects.append(Suspect(index, given, likely, float(answers[index, likely]), score))
    return sorted(suspects, key=lambda suspect: (-suspect.score, suspect.index))


def mistaken_shares(labels: Array, answers: Array) -> Array:
    """For each two classes the share of their images that are taken for the other, float64 [classes, classes]."""
    taken, sizes = np.zeros((answers.shape[1],) * 2), np.bincount(labels, minlength=answers.shape[1])
    np.add.at(taken, (labels, answers.argmax(axis=1)), 1)
    shares: Array = (taken + taken.T) / np.maximum(sizes[:, None] + sizes, 1)
    return shares

"""Which labels are probably wrong: those that a head that has not seen the image, and its neighbours, both deny."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

FOLDS = 5
NEIGHBOURS = 10

DENIED = 0.2
"""Share of the neighbours that may have the label that is given."""


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


def out_of_fold(features: Array, labels: Array, seed: int = 0) -> Array:
    """For each image the probability of every class, by a linear discriminant that has not seen the image.

    Args:
        features: float [N, features], of a frozen network.
        labels: int [N], 0 to classes - 1, at least two images of each class.
        seed: of the folds.

    Returns:
        float64 [N, classes].
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import StratifiedKFold

    folds = int(min(FOLDS, np.bincount(labels).min()))
    answers = np.zeros((len(labels), int(labels.max()) + 1))
    for learnt, held in StratifiedKFold(folds, shuffle=True, random_state=seed).split(features, labels):
        mean, spread = features[learnt].mean(axis=0), features[learnt].std(axis=0)
        scaled = (features - mean) / np.where(spread > 1e-6, spread, 1.0)
        head = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of features that say nothing, which the shrinkage takes care of
            head.fit(scaled[learnt], labels[learnt])
            answers[held] = head.predict_proba(scaled[held])
    return answers


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


def label_suspects(features: Array, labels: Array, seed: int = 0) -> list[Suspect]:
    """The images whose label is probably wrong, surest first.

    As confident learning has it (Northcutt, Jiang and Chuang 2021), another class must reach the confidence that it
    has on average where it is given; and the nearest neighbours must deny the given label as well, which leaves out
    images that are merely hard.

    Args:
        features: float [N, features].
        labels: int [N], 0 to classes - 1.
        seed: of the folds.
    """
    if len(np.unique(labels)) < 2 or np.bincount(labels).min() < 2:
        return []
    answers = out_of_fold(features, labels, seed)
    shares = neighbour_shares(features, labels)
    usual = np.array([answers[labels == name, name].mean() for name in range(answers.shape[1])])
    found = []
    for index, (given, likely) in enumerate(zip(labels.tolist(), answers.argmax(axis=1).tolist(), strict=True)):
        ahead = shares[index, likely] - shares[index, given]
        if likely == given or answers[index, likely] < usual[likely] or shares[index, given] > DENIED or ahead <= 0:
            continue
        score = float(answers[index, likely] - answers[index, given] + ahead)
        found.append(Suspect(index, given, likely, float(answers[index, likely]), score))
    return sorted(found, key=lambda suspect: (-suspect.score, suspect.index))

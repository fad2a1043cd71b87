"""The head, solved: a linear classifier on frozen features, everything about it chosen by cross-validation.

The head is Fisher's discriminant with one shrunk covariance (`discriminant.py`). How strongly it is shrunk, and how
sharp its answers are (one factor on the logits), are what answers for images that it has not seen say: each of ten
folds is answered by the head that the other nine give, and the lowest log-loss is taken. The same answers are an honest
estimate of how good the head is, and calibrate it.

The targets of that log-loss are smoothed as Platt's are (1999, "Probabilistic outputs for support vector machines"):
classes that are told apart without a mistake would ask for infinite sharpness.

Exact, without random steps, in float64; the same rows give the same bits. Memory is bounded by blocks of rows (see
`discriminant.py`) and by looking at no more than `SEARCHED` of the held-out rows while strengths are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from finetune.errors import DivergedError
from finetune.train.discriminant import Discriminant, Moments, Rows
from finetune.train.folds import assign_folds, same_things

SHRINKAGES: Sequence[float] = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
"""Strengths that are tried; the first of equals is kept."""

SHARPNESS: Sequence[float] = tuple(2.0 ** (power / 4) for power in range(-56, 9))
"""Factors of the logits that are tried."""

SEARCHED = 20_000
"""Held-out rows by which strengths are compared; with more rows than that, every second, third, ….

More would not change the choice: the log-loss of so many is known to a thousandth."""

FOLDS, MANY = 10, 5000
"""Folds, and the rows above which half as many do: with few images, nine tenths of them give nearly the head of all."""

FEW = 5
"""Images a class below which the figures by cross-validation say little."""

BLIND = 0.5
"""Shrinkage where nothing could be held out: no class has two images that differ."""


@dataclass(frozen=True)
class Solved:
    """A linear head, and what is known about it.

    Attributes:
        weight: float32 [classes, features].
        bias: float32 [classes].
        features: which of the offered groups it reads: how many columns from the right.
        shrinkage: of the covariance.
        sharpness: factor that the logits were given.
        logits: float32 [N, classes], of every row by a head that has not seen its fold.
        loss: mean log-loss of those, plain.
        few: classes with fewer than `FEW` different images.
        alone: classes with one, which could not be validated.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    features: int
    shrinkage: float
    sharpness: float
    logits: np.ndarray
    loss: float
    few: tuple[int, ...]
    alone: tuple[int, ...]


def solve_head(
    features: np.ndarray,
    labels: np.ndarray,
    units: np.ndarray,
    widths: tuple[int, ...],
    *,
    classes: int,
    class_weights: Sequence[float] | None = None,
    offers: Sequence[int] | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Solved:
    """The best head by cross-validation, from all rows.

    Args:
        features: float32 [N, D], a row a view of an image; groups of features side by side.
        labels: int64 [N]; every class occurs.
        units: int64 [N]; rows with the same number are never on both sides of a fold.
        widths: of the groups, from left to right; their sum is D.
        classes: how many.
        class_weights: weight of the images of each class; all 1 by default.
        offers: how many of the groups, counted from the right, a head may read; the best is taken. All by default.
        tick: called now and then; may raise to stop.

    Raises:
        DivergedError: some feature is not finite.
    """
    require_finite(features)
    folds = assign_folds(labels, units, FOLDS if len(labels) <= MANY else FOLDS // 2)
    weights = np.ones(classes) if class_weights is None else np.asarray(class_weights, dtype=np.float64)
    best: tuple[float, Solved] | None = None
    for groups in offers or (len(widths),):
        group_widths = widths[len(widths) - groups :]
        columns = features[:, features.shape[1] - sum(group_widths) :]
        candidate = _solve(columns, labels, units, folds, group_widths, weights, tick)
        if best is None or candidate[0] < best[0]:  # of equals the first, which reads less
            best = candidate
    assert best is not None
    return best[1]


def unseen_answers(features: np.ndarray, labels: np.ndarray, units: Sequence[object]) -> np.ndarray:
    """For each image the probability of every class, by the head that images of other folds give.

    Args:
        features: float [N, D], of a frozen network.
        labels: int64 [N], 0 to classes - 1.
        units: of each image, what may not be on both sides of a fold.

    Returns:
        float64 [N, classes].
    """
    rows = np.ascontiguousarray(features, dtype=np.float32)
    solved = solve_head(rows, labels, same_things(units), (rows.shape[1],), classes=int(labels.max()) + 1)
    probabilities: np.ndarray = torch.softmax(torch.from_numpy(solved.logits).double(), dim=1).numpy()
    return probabilities


def _solve(
    features: np.ndarray,
    labels: np.ndarray,
    units: np.ndarray,
    folds: np.ndarray,
    widths: tuple[int, ...],
    weights: np.ndarray,
    tick: Callable[[], None],
) -> tuple[float, Solved]:
    """The head on these features, and the smoothed log-loss by which it is to be compared."""
    rows, classes = Rows(features, widths), len(weights)
    fold_rows = [np.flatnonzero(folds == fold) for fold in range(int(folds.max()) + 1)]
    moments = [Moments.of(rows, own_rows, labels, weights) for own_rows in fold_rows]
    all_moments = _sum(moments)
    few, alone = _rare(labels, units, classes)
    known = ~np.isin(labels, alone)  # a class with one image is never both learned and held out: it has no say
    heads = [Discriminant(all_moments.without(fold_moments)) for fold_moments in moments]
    held_out = list(zip(heads, fold_rows, strict=True))
    tick()
    loss, shrinkage, sharpness = np.inf, BLIND, 1.0
    if len(fold_rows) > 1 and known.any():
        loss, shrinkage, sharpness = best_shrinkage(rows, held_out, labels, known, weights, SHRINKAGES, tick)
    logits = sharpness * held_out_answers(rows, held_out if len(fold_rows) > 1 else [], shrinkage, len(labels))
    weight, bias = rows.head(*(sharpness * part for part in Discriminant(all_moments).head(shrinkage)))
    plain = float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)))
    solved = Solved(
        weight.to(torch.float32),
        bias.to(torch.float32),
        features.shape[1],
        shrinkage,
        sharpness,
        logits.to(torch.float32).numpy(),
        plain,
        few,
        alone,
    )
    return loss, solved


def best_shrinkage(
    rows: Rows,
    held_out: Sequence[tuple[Discriminant, np.ndarray]],
    labels: np.ndarray,
    known: np.ndarray,
    weights: np.ndarray,
    strengths: Sequence[float],
    tick: Callable[[], None],
) -> tuple[float, float, float]:
    """The lowest smoothed log-loss of the answers out of fold, the shrinkage and the sharpness that give it.

    Args:
        rows: all of them.
        held_out: for each fold, what the others give, and the places of its own rows, int64.
        labels: int64 [N].
        known: bool [N], the rows that have a say.
        weights: of the classes, float64 [K].
        strengths: of which one is taken, the first of equals.
        tick: called after each; may raise to stop.
    """
    loss, shrinkage, sharpness = np.inf, BLIND, 1.0
    step = -(-int(known.sum()) // SEARCHED)
    compared = np.zeros(len(labels), dtype=bool)
    compared[np.flatnonzero(known)[::step]] = True
    searched = [(discriminant, own_rows[compared[own_rows]]) for discriminant, own_rows in held_out]
    for strength in strengths:
        logits = held_out_answers(rows, searched, strength, len(labels))
        value, factor = _sharpest(logits[torch.from_numpy(compared)], labels[compared], weights)
        if value < loss:
            loss, shrinkage, sharpness = value, strength, factor
        tick()
    return loss, shrinkage, sharpness


def _sum(moments: Sequence[Moments]) -> Moments:
    return Moments(
        sum((fold.counts for fold in moments), start=torch.zeros_like(moments[0].counts)),
        sum((fold.weights for fold in moments), start=torch.zeros_like(moments[0].weights)),
        sum((fold.sums for fold in moments), start=torch.zeros_like(moments[0].sums)),
        sum((fold.squares for fold in moments), start=torch.zeros_like(moments[0].squares)),
    )


def held_out_answers(
    rows: Rows, held_out: Sequence[tuple[Discriminant, np.ndarray]], shrinkage: float, count: int
) -> torch.Tensor:
    """Logits of the rows of each fold by the head that the others give, float64 [N, K]; 0 for rows that are in none."""
    logits: torch.Tensor | None = None
    for discriminant, own_rows in held_out:
        weight, bias = discriminant.head(shrinkage)
        if logits is None:
            logits = torch.zeros((count, len(bias)), dtype=torch.float64)
        for block, values in rows.take(own_rows):
            logits[torch.from_numpy(block)] = values @ weight.T + bias
    return torch.zeros((count, 1), dtype=torch.float64) if logits is None else logits


def _sharpest(logits: torch.Tensor, labels: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """The lowest smoothed log-loss over `SHARPNESS`, and the factor that gives it.

    The loss is convex in the factor, so the search over the ascending factors goes by halves.
    """
    targets = torch.from_numpy(labels)
    row_weights = torch.from_numpy(weights[labels])
    row_weights = row_weights / row_weights.sum()
    rows, classes = logits.shape
    smoothing = classes / (rows + 2 * classes)

    def loss(index: int) -> float:
        answers = torch.log_softmax(SHARPNESS[index] * logits, dim=1)
        right = answers.gather(1, targets[:, None])[:, 0]
        return float(-((1 - smoothing) * right + smoothing * answers.mean(dim=1)) @ row_weights)

    low, high = 0, len(SHARPNESS) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if loss(middle) <= loss(middle + 1) else (middle + 1, high)
    return loss(low), SHARPNESS[low]


def _rare(labels: np.ndarray, units: np.ndarray, classes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The classes with fewer than `FEW` units, and those with one."""
    counts = [len(np.unique(units[labels == label])) for label in range(classes)]
    few = tuple(label for label, count in enumerate(counts) if count < FEW)
    return few, tuple(label for label in few if counts[label] < 2)


def require_finite(features: np.ndarray) -> None:
    """Refuse features, float [N, D], of which some are not finite.

    Raises:
        DivergedError: there are such.
    """
    if broken := int((~np.isfinite(features).all(axis=1)).sum()):
        raise DivergedError(
            f"train.precision: the frozen layers give no finite features for {broken:,} images",
            "use train.precision: fp32; if that is what it was, the weights or model.preprocess are to blame",
        )

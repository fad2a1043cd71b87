"""Answers of a solved head that learned from fewer images: the raw data of the learning curve.

Every image is answered at every size by a head that learned from a part of the images in other folds, so all points of
the curve are evaluated on the same images, and their differences are not those between test sets. A size counts the
images that the heads of the answers out of fold learned from, which are nine tenths of all; the last point is those
answers.

The parts are drawn class by class, another draw for each fold, smaller ones inside larger ones. For each size the
shrinkage is chosen anew, from what was best for all images and the next stronger ones: fewer images never ask for less.
The work is bounded: four folds, three strengths, and nothing at all above `MOST_IMAGES` or `MOST_DIMENSIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from finetune.train.discriminant import Discriminant, Moments, Rows
from finetune.train.folds import assign_folds
from finetune.train.head_solver import FOLDS, SHRINKAGES, Solved, best_shrinkage, held_out_answers

BySize = tuple[list[int], list[np.ndarray]]
"""Numbers of images that heads learned from; the logits of all rows out of fold, float32 [N, classes], for each."""

SHARES = (0.25, 0.5, 0.75)
MOST_IMAGES, MOST_DIMENSIONS = 3000, 1500
"""Rows, and dimensions of their span, above which the curve would take longer than the head."""
FEWEST = 8
"""Images a class, on average, below which a quarter of them is nothing to learn from."""
PARTS, STRENGTHS = 4, 3
"""Folds, and strengths of shrinkage, tried for each size. Three of four folds are enough for 75 % of nine tenths."""


def unsuitable(features: np.ndarray, units: np.ndarray, classes: int) -> str:
    """Why there is no learning curve for these rows; empty where there is one.

    Args:
        features: float32 [N, D], of all rows.
        units: int64 [images], the same for images that show the same thing.
        classes: how many.
    """
    if len(features) > MOST_IMAGES or min(features.shape) > MOST_DIMENSIONS:
        return f"no learning curve: it is for up to {MOST_IMAGES:,} images and {MOST_DIMENSIONS:,} features"
    few = len(np.unique(units)) < FEWEST * classes
    return f"no learning curve: fewer than {FEWEST} images a class" if few else ""


def answers_by_size(
    features: np.ndarray,
    labels: np.ndarray,
    units: np.ndarray,
    images: np.ndarray,
    widths: tuple[int, ...],
    solved: Solved,
    class_weights: Sequence[float] | None = None,
    tick: Callable[[], None] = lambda: None,
) -> BySize:
    """How many images the heads learned from, and what they answered, for each of `SHARES` and for all.

    Args:
        features: float32 [N, D], as `solve_head` was given them.
        labels: int64 [N].
        units: int64 [images], the same for images that show the same thing.
        images: int64 [N], the image that each row is a view of.
        widths: of the groups of features that the head reads.
        solved: the head of all images.
        class_weights: as `solve_head` was given them.
        tick: called now and then; may raise to stop.
    """
    classes, things = len(solved.bias), units[images]
    weights = np.ones(classes) if class_weights is None else np.asarray(class_weights, dtype=np.float64)
    rows = Rows(features[:, features.shape[1] - solved.features :], widths)
    folds = assign_folds(labels, things, PARTS)
    fold_rows = [np.flatnonzero(folds == fold) for fold in range(int(folds.max()) + 1)]
    known = ~np.isin(labels, solved.alone)
    first = SHRINKAGES.index(solved.shrinkage) if solved.shrinkage in SHRINKAGES else 0
    full = 1 - 1 / FOLDS
    sizes, answers = [], []
    for share in SHARES:
        learned = [_part(labels, things, folds, fold, share * full) for fold in range(len(fold_rows))]
        held_out = [
            (Discriminant(Moments.of(rows, chosen, labels, weights)), own_rows)
            for chosen, own_rows in zip(learned, fold_rows, strict=True)
        ]
        tick()
        strengths = SHRINKAGES[first:][:STRENGTHS]
        _, shrinkage, sharpness = best_shrinkage(rows, held_out, labels, known, weights, strengths, tick)
        logits = sharpness * held_out_answers(rows, held_out, shrinkage, len(labels))
        sizes.append(round(float(np.mean([len(np.unique(images[chosen])) for chosen in learned]))))
        answers.append(logits.numpy().astype(np.float32))
    return [*sizes, round(full * len(np.unique(images)))], [*answers, solved.logits]


def _part(labels: np.ndarray, units: np.ndarray, folds: np.ndarray, fold: int, share: float) -> np.ndarray:
    """Rows outside a fold, int64: of each class this share of all its units, at least one where there is one."""
    things, first, inverse = np.unique(units, return_index=True, return_inverse=True)
    order = np.random.default_rng(fold).permutation(len(things))
    outside = folds[first][order] != fold
    chosen = np.zeros(len(things), dtype=bool)
    for label in np.unique(labels[first]):
        same = labels[first][order] == label
        chosen[order[same & outside][: max(1, round(share * int(same.sum())))]] = True
    return np.flatnonzero(chosen[inverse.reshape(-1)])

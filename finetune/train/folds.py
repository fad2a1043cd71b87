"""Folds for cross-validation: stratified, with everything that shows the same thing in one fold.

The idea: a fold is answered by the head that the other folds give, so the answers say how good the head is on images
it has not seen. Why that is right: what must not be on both sides (views of one image, duplicates, frames of one video)
is one *unit*, and a unit lies in one fold only (`same_things`).

What would break it: a unit in two folds (the head would recognise what it has learned by heart, and every figure would
flatter), or a class that is missing from most folds (so the units of a class are dealt out evenly, the largest first).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def assign_folds(labels: np.ndarray, units: np.ndarray, folds: int, seed: int = 0) -> np.ndarray:
    """The fold of each row; every class is spread over the folds as evenly as its units allow.

    Args:
        labels: int64 [N], the class of each row.
        units: int64 [N]; rows with the same number (views of an image, duplicates, a group) share a fold.
        folds: how many; fewer where there are fewer units.
        seed: of which unit goes where.

    Returns:
        int64 [N], 0 to folds - 1.
    """
    _, first, inverse, sizes = np.unique(units, return_index=True, return_inverse=True, return_counts=True)
    folds = max(1, min(folds, len(first)))
    shuffled = np.random.default_rng(seed).permutation(len(first))
    classes = labels[first]  # of a unit with several classes, that of its first row
    taken = np.zeros((int(labels.max(initial=0)) + 1, folds), dtype=np.int64)
    fold_of = np.empty(len(first), dtype=np.int64)
    # the largest units first, each to the fold with the fewest rows of its class, then with the fewest rows at all
    for unit in shuffled[np.lexsort((-sizes[shuffled], classes[shuffled]))]:
        rows_of_class, rows_of_all = taken[classes[unit]], taken.sum(axis=0)
        best = np.lexsort((np.arange(folds), rows_of_all, rows_of_class))[0]
        fold_of[unit], rows_of_class[best] = best, rows_of_class[best] + sizes[unit]
    return fold_of[inverse.reshape(-1)]


def same_things(*keys: Sequence[object]) -> np.ndarray:
    """A number for each row, the same for rows that share any key, directly or through others.

    Args:
        keys: columns of N values each, such as the hash of the content and the group; None is shared with nobody.

    Returns:
        int64 [N].
    """
    rows = len(keys[0])
    parent = np.arange(rows)

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = int(parent[row])
        return row

    for column in keys:
        first_row: dict[object, int] = {}
        for row, key in enumerate(column):
            if key is not None:
                parent[root(row)] = root(first_row.setdefault(key, row))
    return np.array([root(row) for row in range(rows)], dtype=np.int64)

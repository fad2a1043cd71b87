"""Which images a page shows: the surest mistakes, the least sure hits, some for each cell of the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.evaluate.metrics import NONE, predict
from finetune.files import visible

if TYPE_CHECKING:
    from numpy.typing import NDArray

MISTAKES, UNSURE, PER_CELL, CELLS = 16, 8, 6, 150
"""Pictures of each kind at most; cells of the confusion matrix whose images are listed."""
HEATS = 12
"""Mistakes beside which the page shows what spoke for the answer: each takes a pass and its gradient, and 3 kB."""
PICTURES = 160
"""Pictures of a page at most: some 3 kB each, and each is decoded once more."""
VERY_SURE = 0.95
NAMED = 20
"""Paths listed for a cell at most."""

Predictions = tuple[Sequence[str], "NDArray[np.int64]", "NDArray[np.float64]"]
"""Paths, labels int64 [N] and probabilities float64 [N, C]."""


@dataclass(frozen=True)
class Picks:
    """Places of images in the predictions.

    Attributes:
        mistakes: wrong answers, the surest first.
        very_sure: how many wrong answers were given with a confidence of at least `VERY_SURE`.
        unsure: right answers, the least sure first.
        cells: (truth, answer) → wrong answers of that kind, the surest first; the most frequent kinds first.
    """

    mistakes: list[int] = field(default_factory=list)
    very_sure: int = 0
    unsure: list[int] = field(default_factory=list)
    cells: dict[tuple[int, int], list[int]] = field(default_factory=dict)

    def pictured(self) -> list[int]:
        """Those that are shown as pictures, each once, the most telling first, `PICTURES` at most."""
        chosen = [*self.mistakes, *self.unsure, *(i for places in self.cells.values() for i in places[:PER_CELL])]
        return list(dict.fromkeys(chosen))[:PICTURES]


def pick(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> Picks:
    """Choose.

    Args:
        labels: int64 [N].
        probabilities: float64 [N, C].
    """
    predicted = predict(probabilities)
    sure = np.where(predicted == NONE, -1.0, np.nan_to_num(probabilities.max(axis=1, initial=0.0), nan=-1.0))
    wrong = np.flatnonzero((predicted != labels) & (predicted != NONE))
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")]
    right = np.flatnonzero(predicted == labels)
    right = right[np.argsort(sure[right], kind="stable")]
    cells: dict[tuple[int, int], list[int]] = {}
    for index in wrong.tolist():
        cells.setdefault((int(labels[index]), int(predicted[index])), []).append(index)
    ranked = sorted(cells.items(), key=lambda item: (-len(item[1]), item[0]))[:CELLS]
    very_sure = int((sure[wrong] >= VERY_SURE).sum())
    return Picks(wrong[:MISTAKES].tolist(), very_sure, right[:UNSURE].tolist(), dict(ranked))


def gallery(
    picks: Picks,
    predictions: Predictions,
    classes: Sequence[str],
    thumbnails: Mapping[int, str],
    heats: Mapping[int, str],
) -> dict[str, Any]:
    """The chosen images as the template wants them: path, truth, answer, confidence, picture, heat.

    Args:
        picks: which.
        predictions: all.
        classes: their names.
        thumbnails: place → `data:` address, of those that have a picture.
        heats: the same, of what in the picture spoke for the answer; shown with the surest mistakes.
    """
    paths, labels, probabilities = predictions
    predicted = predict(probabilities)

    def shown(place: int, heat: str = "") -> dict[str, Any]:
        own, answer = int(labels[place]), int(predicted[place])
        return {
            "path": str(paths[place]),
            "truth": classes[own],
            "predicted": classes[answer],
            "sure": float(probabilities[place, answer]),
            "picture": thumbnails.get(place, ""),
            "heat": heat,
        }

    cells = [
        {
            "id": cell_id(truth, answer),
            "truth": classes[truth],
            "predicted": classes[answer],
            "count": len(places),
            "shown": [shown(place) for place in places[:PER_CELL]],
            "named": [visible(str(paths[place])) for place in places[PER_CELL : PER_CELL + NAMED]],
        }
        for (truth, answer), places in picks.cells.items()
    ]
    mistakes = [shown(place, heats.get(place, "")) for place in picks.mistakes]
    return {"mistakes": mistakes, "unsure": [*map(shown, picks.unsure)], "cells": cells}


def cell_id(truth: int, answer: int) -> str:
    """The anchor of a cell's images."""
    return f"cell-{truth}-{answer}"


def heat_map(confusion: NDArray[np.int64], rows: Sequence[Mapping[str, Any]], picks: Picks) -> list[dict[str, Any]]:
    """Rows of the confusion matrix: name, support, and a cell each with its count, share, shade and anchor."""
    table = []
    for truth, (row, counts) in enumerate(zip(rows, confusion.tolist(), strict=True)):
        support = max(row["support"], 1)
        cells = [
            {
                "count": count,
                "share": f"{100 * count / support:.0f}",
                # by the root, so that a few mistakes are still seen beside a full diagonal
                "shade": round(0.1 + 0.9 * math.sqrt(count / support), 3) if count else 0.0,
                "id": cell_id(truth, answer) if (truth, answer) in picks.cells else "",
            }
            for answer, count in enumerate(counts)
        ]
        table.append({"class": row["class"], "support": row["support"], "cells": cells})
    return table

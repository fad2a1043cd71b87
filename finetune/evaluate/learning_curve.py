"""How good a head is by the number of images that it learns from, and what more of them would bring.

Mistakes fall about as a power of the number of images (Cortes et al. 1994, "Learning curves: asymptotic values and rate
of convergence"; Hestness et al. 2017, "Deep learning scaling is predictable, empirically"). The power is fitted to what
was measured, and carried on to twice the images and no further: no curve tells from a few hundred images what millions
would do. All sizes are evaluated on the same images, so the interval comes from drawing these again, each with all its
answers, and fitting anew. It knows nothing of other draws of the images that were learned from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune.evaluate.intervals import macro_f1_interval, wilson
from finetune.evaluate.metrics import confusion_matrix

DRAWS, SEED = 1000, 0
TAIL = 2.5
"""Percent of the draws beyond each end of an interval."""


def learning_curve(
    labels: np.ndarray, sizes: Sequence[int], answers: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """The entry `learning_curve` of `metrics.json`.

    Args:
        labels: int64 [N].
        sizes: how many images were learned from, rising; the last is all that could be.
        answers: int64 [S, N], the class that each image was given at each size.
        classes: names, in the order of the labels.

    Returns:
        `n`, the images evaluated; `points`, one a size; `exponent` with its interval: mistakes fall as images to
        the power of minus this; `forecast` for twice the images; `most_helped`, the class with the largest share
        of mistakes that is no accident, None where nothing was wrong.
    """
    right = answers == labels
    slope = _slopes(sizes, (~right).sum(axis=1)[None, :], len(labels))
    # images are drawn with their answers at all sizes together: the same image is easy or hard at each
    drawn = _drawn(right)
    slopes, exponent = _slopes(sizes, drawn, len(labels)), float(slope[0])
    doubled = 1 - drawn[:, -1] / len(labels) * _factor(slopes)
    mended = 1 - float(_factor(slope)[0])
    return {
        "n": len(labels),
        "points": [_point(labels, size, given, len(classes)) for size, given in zip(sizes, answers, strict=True)],
        "exponent": exponent,
        "exponent_ci95": _interval(slopes),
        "forecast": {
            "images": 2 * int(sizes[-1]),
            "accuracy": 1 - float((~right[-1]).mean()) * (1 - mended),
            "accuracy_ci95": _interval(doubled),
        },
        "most_helped": _most_helped(labels, right[-1], classes, mended),
    }


def _point(labels: np.ndarray, size: int, answers: np.ndarray, classes: int) -> dict[str, Any]:
    confusion, support = confusion_matrix(labels, answers, classes), np.bincount(labels, minlength=classes)
    hits, present = np.diag(confusion), support > 0
    f1 = 2 * hits[present] / (confusion.sum(axis=0) + support)[present]
    return {
        "images": int(size),
        "accuracy": float(hits.sum() / len(labels)),
        "accuracy_ci95": list(wilson(int(hits.sum()), len(labels)) or ()),
        "macro_f1": float(f1.mean()),
        "macro_f1_ci95": list(macro_f1_interval(confusion, support) or ()),
    }


def _drawn(right: np.ndarray) -> np.ndarray:
    """Mistakes at each size in draws of the images with replacement, int64 [DRAWS, S]."""
    count = right.shape[1]
    shares = np.full(count, 1 / count)
    times = np.random.default_rng(SEED).multinomial(count, shares, size=DRAWS)
    drawn: np.ndarray = times @ (~right).T.astype(np.int64)
    return drawn


def _slopes(sizes: Sequence[int], mistakes: np.ndarray, count: int) -> np.ndarray:
    """The exponent for each row of mistakes [D, S], by least squares of the logarithms; half a mistake is added to each
    number, so that none at all has a logarithm. Below 0 where mistakes rise."""
    across = np.log(np.asarray(sizes, dtype=np.float64))
    across -= across.mean()
    exponents: np.ndarray = -np.log((mistakes + 0.5) / (count + 1)) @ across / (across @ across)
    return exponents


def _factor(exponents: np.ndarray) -> np.ndarray:
    """The factor on the share of mistakes from twice the images; at most 1."""
    factor: np.ndarray = 2.0 ** -np.maximum(exponents, 0.0)
    return factor


def _interval(values: np.ndarray) -> list[float]:
    return [float(value) for value in np.percentile(values, [TAIL, 100 - TAIL])]


def _most_helped(labels: np.ndarray, right: np.ndarray, classes: Sequence[str], mended: float) -> dict[str, Any] | None:
    """The class whose share of mistakes is the largest beyond doubt: by the low end of its interval."""
    support = np.bincount(labels, minlength=len(classes))
    wrong = np.bincount(labels[~right], minlength=len(classes))
    if not wrong.any():
        return None
    low = [(wilson(int(mistakes), int(count)) or (0.0, 1.0))[0] for mistakes, count in zip(wrong, support, strict=True)]
    worst_class = int(np.argmax(low))
    return {
        "class": classes[worst_class],
        "images": int(support[worst_class]),
        "wrong": int(wrong[worst_class]),
        "mended": float(wrong[worst_class] * mended),
    }

"""The warnings right below the headline, in plain sentences, gravest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.files import visible
from finetune.report.gallery import VERY_SURE
from finetune.report.tables import TOO_FEW, worst_first

UNBALANCED = 8
"""Times as many training images in the largest class as in the smallest, from which on it is said."""


def worries(
    metrics: Mapping[str, Any],
    data: Mapping[str, Any],
    sure_mistakes: int,
    curves: str,
    calibration: str,
    weighted: bool = False,
) -> list[str]:
    """All that applies, each a sentence without its stop.

    Args:
        metrics: the content of `metrics.json`.
        data: what `data_summary` gives.
        sure_mistakes: wrong answers given with a confidence of at least `VERY_SURE`.
        curves: over- or underfitting, as `learning.fitting` says it.
        calibration: as `confidence.overconfidence` says it.
        weighted: the classes had weights in training.
    """
    found = [*metrics.get("cautions", ())]
    found += _no_better_than_nothing(metrics)
    found += _small_classes(metrics["per_class"])
    found += _imbalance(data, weighted)
    found += [line for line in (curves, calibration) if line]
    if sure_mistakes:
        several = f"In {sure_mistakes:,} mistakes it was" if sure_mistakes > 1 else "In one mistake it was"
        found.append(f"{several} at least {VERY_SURE:.0%} sure: look there for wrong labels first")
    return found


def _no_better_than_nothing(metrics: Mapping[str, Any]) -> list[str]:
    base, interval = metrics.get("base_rate"), metrics.get("accuracy_ci95")
    if not metrics["n"] or base is None or interval is None or interval[0] > base:
        return []
    return [
        f"It is not clearly better than always naming the largest class, which is right {100 * base:.1f}% of the time"
    ]


def _small_classes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    few = [visible(row["class"]) for row in worst_first(rows) if row["support"] < TOO_FEW]
    if not few:
        return []
    named = ", ".join(few[:6]) + (f" and {len(few) - 6} more" if len(few) > 6 else "")
    which = "Every class has" if len(few) == len(rows) else f"{len(few)} of {len(rows)} classes have"
    return [f"{which} fewer than {TOO_FEW} evaluated images, too few to trust the scores of single classes: {named}"]


def _imbalance(data: Mapping[str, Any], weighted: bool) -> list[str]:
    counts = {name: count for name, count in ((data.get("counts") or {}).get("train") or {}).items() if count}
    if len(counts) < 2:
        return []
    small, large = min(counts, key=lambda name: counts[name]), max(counts, key=lambda name: counts[name])
    times = counts[large] / counts[small]
    if times < UNBALANCED:
        return []
    remedy = "more images of the small one would help" if weighted else "see data.class_weights"
    return [
        f"Unbalanced: {visible(large)} has {times:.0f} times as many training images as {visible(small)} "
        f"({counts[large]:,} and {counts[small]:,}); {remedy}"
    ]

"""The page's section on the number of images: the learning curve, and whether more would help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.files import visible
from finetune.report import charts


def by_size(curve: Mapping[str, Any]) -> dict[str, Any]:
    """The picture and the sentences of the section.

    Args:
        curve: the entry of `metrics.json`, as `evaluate.learning_curve` gives it.
    """
    measured = [*curve["points"], curve["forecast"]]
    points = [(one["images"], one["accuracy"], *one["accuracy_ci95"]) for one in measured]
    return {"picture": charts.sizes("Accuracy by the number of images", points), "n": curve["n"], "said": advice(curve)}


def advice(curve: Mapping[str, Any]) -> str:
    """Whether more images would help, and of which class most, in plain sentences.

    Args:
        curve: the entry of `metrics.json`.
    """
    first, last, helped, forecast = curve["points"][0], curve["points"][-1], curve["most_helped"], curve["forecast"]
    if helped is None:
        return "No mistake is left here that more images could mend."
    most = (
        f"{visible(helped['class'])} has the largest share of mistakes: "
        f"{helped['wrong']:,} of its {helped['images']:,} images are taken for another class"
    )
    if curve["exponent_ci95"][0] <= 0:
        return (
            f"From {first['images']:,} to {last['images']:,} images the mistakes did not fall by more than chance "
            f"explains: more images of the same kind are not sure to help. {most}; look at these first."
        )
    low, high = forecast["accuracy_ci95"]
    now, then = (f"{100 * one['accuracy']:.1f}%" for one in (last, forecast))
    return (
        f"Twice the images would bring about {then} (95% interval {100 * low:.1f}% to {100 * high:.1f}%) instead of "
        f"{now}, if mistakes go on falling as they did. {most}, so that images of this class would help most: "
        f"{helped['images']:,} more of them would fix about {helped['mended']:.0f} of these mistakes."
    )

"""The sentences at the top of the page: the numbers in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from finetune.files import escape_html
from finetune.report.tables import TOO_FEW, number, worst_first

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOT_PROBABILITIES = {
    "bce": "Trained with bce, each class against the rest: the probabilities are normalised sigmoids.",
    "hinge": "Trained with hinge, each class against the rest: the probabilities are a softmax of the margins, "
    "and mean little as such.",
}
"""Losses after which a confidence is no estimated probability, and what the report says of it."""


MENDED, MIXED_UP = 3, 0.1
"""Mistakes, and share of the images of two classes, from which on it is worth saying that they could be one."""


@dataclass(frozen=True)
class Confusion:
    """`count` of the `support` images of class `truth` were taken for `predicted`."""

    truth: str
    predicted: str
    count: int
    support: int


def confusions(matrix: NDArray[np.int64], rows: Sequence[Mapping[str, Any]], most: int = 6) -> list[Confusion]:
    """The most frequent mistakes, equal counts in the order of the classes.

    Args:
        matrix: int64 [C, C], rows = truth.
        rows: of `per_class.csv`, in the order of the matrix.
        most: how many at most.
    """
    wrong = np.array(matrix)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    places = [divmod(int(index), len(rows)) for index in order if wrong.flat[index] > 0]
    return [Confusion(rows[t]["class"], rows[p]["class"], int(wrong[t, p]), rows[t]["support"]) for t, p in places]


@dataclass(frozen=True)
class Merger:
    """Two classes that are mostly taken for each other: as one, `mended` mistakes fall away.

    Attributes:
        first: a class.
        second: another.
        mended: images of one that were taken for the other.
        share: of the images of both.
        accuracy: of all images, if the two were one.
    """

    first: str
    second: str
    mended: int
    share: float
    accuracy: float


def mergers(matrix: NDArray[np.int64], rows: Sequence[Mapping[str, Any]], most: int = 3) -> list[Merger]:
    """The pairs of classes that would gain most by being one: where the network, or the labels, hardly tell them apart.

    Args:
        matrix: int64 [C, C], rows = truth.
        rows: of `per_class.csv`, in the order of the matrix.
        most: how many at most.
    """
    if len(rows) < 3:
        return []  # of two classes nothing would be left to tell apart
    both = np.triu(matrix + matrix.T, 1)
    total, right = sum(row["support"] for row in rows), int(np.trace(matrix))
    candidates = []
    for index in np.argsort(-both, axis=None, kind="stable")[: 10 * most]:
        one, other = divmod(int(index), len(rows))
        mended, images = int(both[one, other]), rows[one]["support"] + rows[other]["support"]
        if mended >= MENDED and mended >= MIXED_UP * images:
            named = (rows[one]["class"], rows[other]["class"])
            candidates.append(Merger(*named, mended, mended / images, (right + mended) / total))
    return candidates[:most]


def verdict(metrics: Mapping[str, Any], matrix: NDArray[np.int64], selected_on: bool) -> list[Markup]:
    """Up to four sentences, as HTML, for someone who wants to know whether this is any good.

    Args:
        metrics: the content of `metrics.json`.
        matrix: int64 [C, C], rows = truth.
        selected_on: these images also chose the epoch.
    """
    if not metrics["n"]:
        return [Markup("There was no image to evaluate.")]
    rows = metrics["per_class"]
    sentences = [_accuracy(metrics, matrix, selected_on), _baseline(metrics)]
    if len(rows) > 1 and metrics["accuracy"] < 1:
        sentences.append(_weakest(worst_first(rows)))
    return sentences + [
        Markup("The most frequent mistake: {:,} of {:,} images of {} were taken for {}.").format(
            one.count, one.support, _name(one.truth), _name(one.predicted)
        )
        for one in confusions(matrix, rows, most=1)
    ]


def largest_share(rows: Sequence[Mapping[str, Any]]) -> float:
    """The accuracy of always answering the largest class."""
    supports = [row["support"] for row in rows]
    return float(max(supports) / max(sum(supports), 1))


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal, never rounded to 100 while something is wrong."""
    if share is None or share != share:
        return "–"
    if 0 < share < 0.0005:
        return "<0.1%"
    # one mistake in 10,000 must not read as perfect
    return "99.9%" if 0.9995 <= share < 1 else f"{share * 100:.1f}%"


def _accuracy(metrics: Mapping[str, Any], matrix: NDArray[np.int64], selected_on: bool) -> Markup:
    low, high = (percent(bound) for bound in metrics["accuracy_ci95"])
    named = f"{int(np.trace(matrix)):,} of {metrics['n']:,} images were named correctly"
    if selected_on:
        flatters = "These images also chose the epoch, so the numbers flatter: expect somewhat less on others."
        return Markup("{}. {}").format(named, flatters)
    text = "{}. On other images of the same kind, expect between {} and {} (95% interval)."
    return Markup(text).format(named, low, high)


def random_split(entry: Mapping[str, Any] | None) -> str:
    """What a split that divides groups would have promised; empty where that makes no clear difference.

    Args:
        entry: `grouping` of `metrics.json`.
    """
    if entry is None or not entry["matters"]:
        return ""
    low, high = (100 * value for value in entry["difference_ci95"])
    grouped, random = percent(entry["accuracy"]), percent(entry["accuracy_random_split"])
    return (
        f"The {entry['n']:,} training and validation images lie in {entry['groups']:,} groups. A head that "
        f"has not learned from an image's group is right on {grouped} of them. A random split puts images of one group "
        f"on both sides and would give {random} on the same images: {100 * entry['difference']:.1f} points too much "
        f"(95% interval {low:.1f} to {high:.1f}). New images come from new groups, so believe the lower figure."
    )


def _baseline(metrics: Mapping[str, Any]) -> Markup:
    """What no effort gives: without it, 90 % on unbalanced classes sounds better than it is."""
    rows = metrics["per_class"]
    share, largest = largest_share(rows), max(rows, key=lambda row: int(row["support"]))
    lazy = Markup("Always answering {}, the largest class, would be right {} of the time").format(
        _name(largest["class"]), percent(share)
    )
    clear = metrics["accuracy_ci95"][0] > share
    return lazy + ("." if clear else ": this result is not clearly better than that.")


def _weakest(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """The weakest class, and where it has too few images to tell, the weakest of the others; `rows` worst first."""
    enough = [row for row in rows if row["support"] >= TOO_FEW]
    if not enough:
        return Markup("No class has {} images or more here: too few images to trust per-class scores.").format(TOO_FEW)
    worst = rows[0]
    text = Markup("The weakest class is {}: F1 {}").format(_name(worst["class"]), _f1(worst))
    if worst["support"] >= TOO_FEW:
        return text + "."
    others = Markup(", but on {:,} images only; of those with at least {} images it is {}: {}.")
    return text + others.format(worst["support"], TOO_FEW, _name(enough[0]["class"]), _f1(enough[0]))


def _f1(row: Mapping[str, Any]) -> str:
    span = "" if row["f1_low"] is None else f" ({row['f1_low']:.2f} to {row['f1_high']:.2f})"
    return number(row["f1"], 2) + span


def _name(text: str) -> Markup:
    """A name inside a sentence; `bdi` keeps one that is written from right to left from turning its neighbours."""
    return Markup("<bdi>{}</bdi>").format(Markup(escape_html(text)))

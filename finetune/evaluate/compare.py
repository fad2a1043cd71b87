"""Tests whether one classifier is better than another on the same images.

Two accuracies with intervals that overlap say little: both saw the same images, and most images are easy or hard for
both. What tells them apart are the images on which exactly one is right. McNemar's exact test asks whether these fall
to one side more often than a coin would; a bootstrap that draws images together with both answers says how large the
difference may be.

Where a side was trained with several seeds, there are two sources of chance: other images, and another seed. The
variance of the difference is the sum of both: over images, of the right answers averaged over seeds; over seeds, of the
accuracies, as that of a mean of so many. Each holds a share of what images and seeds do together, so the sum is rather
too large than too small. Student's t with the degrees of freedom of Satterthwaite 1946 turns it into a test and an
interval. A side with one seed borrows the other's variance between seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from scipy.special import bdtr, stdtr, stdtrit  # the tests' distributions; scipy.stats would take a second to import

from finetune.evaluate.intervals import macro_f1_interval
from finetune.evaluate.metrics import confusion_matrix

DRAWS = 10_000
CHUNK = 2_000_000
"""Numbers drawn at once: many classes are drawn a few bootstrap samples at a time."""
ALPHA = 0.05
POWER = 0.8

Interval = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """Second side minus first, on the same images.

    Attributes:
        accuracy: difference of accuracy, of the means over seeds where there are several.
        accuracy_ci95: its 95 % interval.
        macro_f1: difference of macro F1.
        macro_f1_ci95: its 95 % interval.
        p: of no difference in accuracy: McNemar's exact test, or over seeds and images.
        only_first: images on which only the first is right (or more often, over seeds).
        only_second: the same of the second.
        seeds: whether the variation between seeds is part of this.
    """

    accuracy: float
    accuracy_ci95: Interval
    macro_f1: float
    macro_f1_ci95: Interval
    p: float
    only_first: int
    only_second: int
    seeds: bool


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p of McNemar 1947: a binomial test of the images on which the two differ."""
    discordant = only_first + only_second
    # both sides of an even chance are alike, so the p value is twice one tail, at most 1
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), discordant, 0.5))) if discordant else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """P values corrected for so many tests at once, in their order (Holm 1979)."""
    order = np.argsort(values, kind="stable")
    corrected, highest = np.empty(len(values)), 0.0
    for rank, position in enumerate(order):
        # corrected values never fall, so that a larger p is never called the surer one
        highest = max(highest, min(1.0, (len(values) - rank) * values[position]))
        corrected[position] = highest
    return corrected.tolist()


def compare_answers(
    labels: np.ndarray, first: np.ndarray, second: np.ndarray, classes: int, seed: int = 0, draws: int = DRAWS
) -> Difference:
    """How two sides differ.

    Args:
        labels: int64 [N], the truth.
        first: int64 [seeds, N], the classes that the first side named; -1 for none.
        second: int64 [seeds, N], of the second side; it may have another number of seeds.
        classes: their number.
        seed: of the bootstrap.
        draws: of the bootstrap.
    """
    hits = [(answers == labels).astype(np.float64) for answers in (first, second)]
    gain = hits[1].mean(axis=0) - hits[0].mean(axis=0)
    scores = [np.array([macro_f1(labels, row, classes) for row in side]) for side in (first, second)]
    lost, won = int((gain < 0).sum()), int((gain > 0).sum())
    change, f1_change = float(gain.mean()), float(scores[1].mean() - scores[0].mean())
    if len(first) == len(second) == 1:
        # answers are drawn in pairs, because both sides were asked about the same images
        drawn = _bootstrap(labels, first[0], second[0], classes, seed, draws)
        accuracy, f1 = (_quantiles(values) for values in drawn)
        return Difference(change, accuracy, f1_change, f1, mcnemar(lost, won), lost, won, False)
    accuracies = [side.mean(axis=1) for side in hits]
    p, accuracy = _over_seeds(change, _image_variance(gain), len(labels), *accuracies)
    pairs = zip(_seeds(first, len(second)), _seeds(second, len(first)), strict=True)
    # over images, the variance of one pair of seeds stands for that of their means; it is rather larger
    spread = np.mean([_bootstrap(labels, a, b, classes, seed, draws // 5)[1].var() for a, b in pairs])
    _, f1 = _over_seeds(f1_change, float(spread), len(labels), *scores)
    return Difference(change, accuracy, f1_change, f1, p, lost, won, True)


def images_needed(n: int, difference: Difference) -> int | None:
    """About how many test images it takes to see a difference of this size in four of five tests (Connor 1987).

    None where no number would do: the two answer alike, or are right equally often.
    """
    discordant = (difference.only_first + difference.only_second) / n
    delta = abs(difference.accuracy)
    if delta < 1e-12 or discordant == 0:
        return None
    surely, power = NormalDist().inv_cdf(1 - ALPHA / 2), NormalDist().inv_cdf(POWER)
    root = surely * math.sqrt(discordant) + power * math.sqrt(max(discordant - delta**2, 0.0))
    return max(math.ceil((root / delta) ** 2), 6)


def macro_f1(labels: np.ndarray, answers: np.ndarray, classes: int) -> float:
    """Mean F1 over the classes that have images."""
    support = np.bincount(labels, minlength=classes)
    named = np.bincount(answers[answers >= 0], minlength=classes)
    hits = np.bincount(labels[answers == labels], minlength=classes)
    present = support > 0
    return float((2 * hits[present] / (named + support)[present]).mean())


def _bootstrap(
    labels: np.ndarray, first: np.ndarray, second: np.ndarray, classes: int, seed: int, draws: int
) -> tuple[np.ndarray, np.ndarray]:
    """Differences of accuracy and of macro F1 in so many resampled tests, float64 [draws] each.

    Images are drawn with both their answers, within each true class. As if there were one image more that flipped each
    way, so that two that have never differed yet are not taken for the same.
    """
    random = np.random.default_rng(np.random.SeedSequence(seed))
    support = np.bincount(labels, minlength=classes)
    step = max(1, CHUNK // (4 * classes))  # two sides, named and hits: four numbers a class and draw
    change, f1_change = [], []
    for size in (min(step, draws - start) for start in range(0, draws, step)):
        named, hits = np.zeros((2, size, classes)), np.zeros((2, size, classes))
        for truth, pairs, shares in _flips(labels, first, second, support):
            drawn = random.multinomial(support[truth], shares, size=size)
            for side in (0, 1):
                answered = pairs[:, side] >= 0
                np.add.at(named[side].T, pairs[answered, side], drawn[:, answered].T)
                hits[side, :, truth] = drawn[:, pairs[:, side] == truth].sum(axis=1)
        present = support > 0
        f1 = (2 * hits[:, :, present] / (named + support)[:, :, present]).mean(axis=2)
        change.append((hits[1] - hits[0]).sum(axis=1) / len(labels))
        f1_change.append(f1[1] - f1[0])
    return np.concatenate(change), np.concatenate(f1_change)


def _flips(
    labels: np.ndarray, first: np.ndarray, second: np.ndarray, support: np.ndarray
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """For each class: pairs of answers, int64 [K, 2], and their shares of its images, the two unseen flips last."""
    for truth in np.flatnonzero(support):
        own = labels == truth
        pairs, counts = np.unique(np.stack([first[own], second[own]], axis=1), axis=0, return_counts=True)
        share = support[truth] / len(labels)
        weights = np.append(counts, [share, share])
        yield int(truth), np.concatenate([pairs, [[truth, -1], [-1, truth]]]), weights / weights.sum()


def _quantiles(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


def _image_variance(gain: np.ndarray) -> float:
    """Variance of the mean of `gain` over other images; as in the bootstrap, one more flips each way."""
    n = len(gain) + 2
    return float(((gain**2).sum() + 2 - gain.sum() ** 2 / n) / (n - 1) / len(gain))


def pooled(labels: np.ndarray, answers: np.ndarray, classes: int) -> dict[str, dict[str, Any]]:
    """Accuracy and macro F1 of several seeds: mean, spread between seeds, and a 95 % interval over seeds and images.

    Args:
        labels: int64 [N].
        answers: int64 [seeds, N], two seeds at least; -1 for none.
        classes: their number.

    Returns:
        `accuracy` and `macro_f1`, each with mean, sd, lowest, highest, ci95.
    """
    hits = (answers == labels).astype(np.float64)
    share, n = hits.mean(axis=0), len(labels) + 2  # one image more is right, one wrong: no interval without width
    images = ((share**2).sum() + 1 - (share.sum() + 1) ** 2 / n) / (n - 1) / len(labels)
    scores = np.array([macro_f1(labels, row, classes) for row in answers])
    support, z = np.bincount(labels, minlength=classes), NormalDist().inv_cdf(1 - ALPHA / 2)
    bounds = [macro_f1_interval(confusion_matrix(labels, row, classes), support) or (0.0, 1.0) for row in answers]
    spread = float(np.mean([((high - low) / (2 * z)) ** 2 for low, high in bounds]))
    figures = {}
    for name, values, variance in [("accuracy", hits.mean(axis=1), float(images)), ("macro_f1", scores, spread)]:
        seeds = float(values.var(ddof=1)) / len(values)
        whole = variance + seeds
        # Welch and Satterthwaite: the degrees of freedom of a sum of two variances, few where seeds dominate
        freedom = whole**2 / (variance**2 / max(len(labels) - 1, 1) + seeds**2 / (len(values) - 1))
        half, mean = float(stdtrit(freedom, 1 - ALPHA / 2)) * math.sqrt(whole), float(values.mean())
        ends = {"lowest": float(values.min()), "highest": float(values.max())}
        interval = [max(0.0, mean - half), min(1.0, mean + half)]
        figures[name] = {"mean": mean, "sd": float(values.std(ddof=1)), **ends, "ci95": interval}
    return figures


def _over_seeds(change: float, images: float, n: int, first: np.ndarray, second: np.ndarray) -> tuple[float, Interval]:
    """P value and interval of a difference, from its variance over images and the figures of each seed."""
    within = [side.var(ddof=1) if len(side) > 1 else None for side in (first, second)]
    known = [value for value in within if value is not None]
    parts, degrees = [images], [max(n - 1, 1)]
    for side, own in zip((first, second), within, strict=True):
        other = len(second) if side is first else len(first)
        parts.append(float((own if own is not None else known[0]) / len(side)))
        degrees.append(max((len(side) if own is not None else other) - 1, 1))
    variance = sum(parts)
    if variance == 0:
        return float(change == 0), (change, change)
    freedom = variance**2 / sum(part**2 / degree for part, degree in zip(parts, degrees, strict=True))
    error = math.sqrt(variance)
    half = float(stdtrit(freedom, 1 - ALPHA / 2)) * error
    return float(2 * stdtr(freedom, -abs(change) / error)), (change - half, change + half)


def _seeds(side: np.ndarray, count: int) -> list[np.ndarray]:
    """The answers of each seed, gone through again where the other side has more of them."""
    return [side[number % len(side)] for number in range(max(len(side), count))]

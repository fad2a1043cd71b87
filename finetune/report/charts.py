"""The page's own charts: inline SVG whose colours come from the page's style sheet, so that they suit light and dark.

Coordinates are those of a 420 units wide drawing; text is escaped by `Markup.format`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from finetune.evaluate.intervals import wilson
from finetune.evaluate.metrics import ECE_BINS, confidence_bins
from finetune.report.axes import Scale, epoch_ticks, tick_labels, ticks

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH = 420.0


@dataclass(frozen=True)
class Line:
    """One curve: the class of the style sheet that colours it and its points (x, y), gaps where y is not finite."""

    style: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Bin:
    """The images whose confidence lies in one bin: how sure the network was, and how often it was right."""

    middle: float
    count: int
    confidence: float
    accuracy: float
    low: float
    high: float


def curves(label: str, lines: Sequence[Line], thaws: Sequence[tuple[int, str]], mark: int | None) -> Markup:
    """Curves over epochs.

    Args:
        label: what a screen reader says of the picture.
        lines: the curves.
        thaws: (epoch, short text) at which a new phase starts, drawn between the epochs.
        mark: the epoch that was kept; its point on the last line gets a ring.
    """
    height, right, top, bottom = 210.0, 412.0, 18.0, 184.0
    finite = [y for line in lines for _, y in line.points if math.isfinite(y)]
    epochs = [int(x) for line in lines for x, _ in line.points] or [0]
    first, last = min(epochs), max(epochs)
    marks = ticks(min(finite, default=0.0), max(finite, default=1.0))
    labels = tick_labels(marks)
    left = max(40.0, 12 + 6.4 * max(map(len, labels)))
    across = Scale(first - 0.35, last + 0.35, left, right)
    up = Scale(marks[0], marks[-1], bottom, top)
    parts = [_rule(left, right, up(value), label) for value, label in zip(marks, labels, strict=True)]
    parts += [_text(across(epoch), bottom + 17, str(epoch), "middle") for epoch in epoch_ticks(last, first)]
    for epoch, text in thaws:
        x = across(epoch - 0.5)
        parts.append(_line(x, top - 6, x, bottom, "thaw"))
        parts.append(_text(x + 4, top - 8, text, "start", "thaw-text"))
    for line in lines:
        parts += _curve(line, across, up)
    kept = [(x, y) for line in lines[-1:] for x, y in line.points if x == mark and math.isfinite(y)]
    parts += [Markup('<circle class="ring" cx="{:.1f}" cy="{:.1f}" r="6"/>').format(across(x), up(y)) for x, y in kept]
    return _svg(label, height, parts)


def calibration_bins(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> list[Bin]:
    """The bins of the expected calibration error that hold images, by rising confidence.

    Args:
        labels: int64 [N].
        probabilities: float64 [N, C]; rows that are not finite are left out.
    """
    finite = np.isfinite(probabilities).all(axis=1)
    confidence = probabilities[finite].max(axis=1, initial=0.0)
    right = probabilities[finite].argmax(axis=1) == labels[finite]
    index = confidence_bins(confidence)
    bins = []
    for number in np.unique(index):
        inside = index == number
        count, hits = int(inside.sum()), int(right[inside].sum())
        low, high = wilson(hits, count) or (0.0, 1.0)
        middle, sure = (float(number) + 0.5) / ECE_BINS, float(confidence[inside].mean())
        bins.append(Bin(middle, count, sure, hits / count, low, high))
    return bins


def calibration(label: str, bins: Sequence[Bin]) -> Markup:
    """Confidence against the share that is right, with intervals; below it, how many images each bin holds."""
    height, left, right, top, bottom = 320.0, 40.0, 412.0, 10.0, 232.0
    across, up = Scale(0, 1, left, right), Scale(0, 1, bottom, top)
    most = max((bin.count for bin in bins), default=1)
    tall = Scale(0, math.sqrt(most), 0, 40)  # roots, so that a bin with one image still shows
    parts = [_rule(left, right, up(value), f"{value:g}") for value in (0, 0.25, 0.5, 0.75, 1)]
    parts.append(_line(left, bottom, right, top, "ideal"))
    base = height - 24
    for bin in bins:
        x, y = across(bin.confidence), up(bin.accuracy)
        parts.append(_line(x, up(bin.low), x, up(bin.high), "whisker"))
        parts.append(Markup('<circle class="dot-a" cx="{:.1f}" cy="{:.1f}" r="4.5"/>').format(x, y))
        size = tall(math.sqrt(bin.count))
        box = '<rect class="count" x="{:.1f}" y="{:.1f}" width="20" height="{:.1f}"/>'
        parts.append(Markup(box).format(across(bin.middle) - 10, base - size, size))
        if bin.count == most:
            parts.append(_text(across(bin.middle), base - size - 4, f"{bin.count:,}", "middle"))
    parts.append(_line(left, base, right, base, "grid"))
    parts += [_text(across(value), height - 7, f"{value:g}", "middle") for value in (0, 0.25, 0.5, 0.75)]
    return _svg(label, height, [*parts, _text(across(1.0), height - 7, "1", "end")])


def coverage(
    label: str, shares: NDArray[np.float64], accuracies: NDArray[np.float64], mark: tuple[float, float] | None
) -> Markup:
    """Accuracy of the answers given against the share of images answered.

    Args:
        label: what a screen reader says of the picture.
        shares: float64 [K], rising.
        accuracies: float64 [K].
        mark: (share, accuracy) at the threshold.
    """
    height, left, right, top, bottom = 250.0, 40.0, 412.0, 10.0, 214.0
    lowest = float(accuracies[len(accuracies) // 20 :].min(initial=1.0))  # the first few images alone swing wildly
    marks = ticks(min(lowest, 0.98), 1.0)
    across, up = Scale(0, 1, left, right), Scale(marks[0], 1.0, bottom, top)
    shown = [value for value in marks if value <= 1.0]
    parts = [_rule(left, right, up(value), text) for value, text in zip(shown, tick_labels(marks), strict=False)]
    parts += [_text(across(value), bottom + 17, f"{100 * value:.0f}%", "middle") for value in (0.25, 0.5, 0.75)]
    parts.append(_text(right, bottom + 17, "100%", "end"))
    places = np.unique(np.linspace(0, len(shares) - 1, 200).round().astype(int)) if len(shares) else np.empty(0, int)
    path = "M" + "L".join(f"{across(shares[i]):.1f} {up(accuracies[i]):.1f}" for i in places) if len(places) else ""
    parts.append(Markup('<path class="curve a" d="{}"/>').format(path))
    if mark is not None:
        ring = '<circle class="ring" cx="{:.1f}" cy="{:.1f}" r="6"/>'
        parts.append(Markup(ring).format(across(mark[0]), up(mark[1])))
    return _svg(label, height, parts)


def sizes(label: str, points: Sequence[tuple[float, float, float, float]]) -> Markup:
    """Accuracy by the number of images learned from.

    Args:
        label: what a screen reader says of the picture.
        points: (images, accuracy, low, high), rising; the last is a forecast.
    """
    height, left, right, top, bottom = 250.0, 44.0, 400.0, 10.0, 214.0
    marks = [value for value in ticks(min(low for _, _, low, _ in points), 1.0) if value <= 1.0]
    across, up = Scale(0, points[-1][0], left, right), Scale(marks[0], 1.0, bottom, top)
    parts = [_rule(left, right, up(value), text) for value, text in zip(marks, tick_labels(marks), strict=True)]
    places = [(across(images), up(value)) for images, value, _, _ in points]
    for dashed, some in (("curve a", places[:-1]), ("ideal", places[-2:])):
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in some)
        parts.append(Markup('<path fill="none" class="{}" d="{}"/>').format(dashed, path))
    for (images, _, low, high), (x, y) in zip(points, places, strict=True):
        parts.append(_line(x, up(low), x, up(high), "whisker"))
        style = "ring" if images == points[-1][0] else "dot-a"
        parts.append(Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="4.5"/>').format(style, x, y))
        parts.append(_text(x, bottom + 17, f"{images:,.0f}", "middle"))
    return _svg(label, height, parts)


def _curve(line: Line, across: Scale, up: Scale) -> list[Markup]:
    """The stretches of finite values as polylines, and a dot a point where there is room for dots."""
    path, pen = [], "M"
    for x, y in line.points:
        if math.isfinite(y):
            path.append(f"{pen}{across(x):.1f} {up(y):.1f}")
        pen = "L" if math.isfinite(y) else "M"
    parts = [Markup('<path class="curve {}" d="{}"/>').format(line.style, "".join(path))]
    if len(line.points) <= 30:
        dot = '<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="2.4"/>'
        places = [(across(x), up(y)) for x, y in line.points if math.isfinite(y)]
        parts += [Markup(dot).format(line.style, x, y) for x, y in places]
    return parts


def _svg(label: str, height: float, parts: Sequence[Markup]) -> Markup:
    head = '<svg role="img" aria-label="{}" viewBox="0 0 {:g} {:g}">{}</svg>'
    return Markup(head).format(label, WIDTH, height, Markup("").join(parts))


def _rule(left: float, right: float, y: float, text: str) -> Markup:
    return _line(left, y, right, y, "grid") + _text(left - 7, y + 4, text, "end")


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    form = '<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'
    return Markup(form).format(style, x1, y1, x2, y2)


def _text(x: float, y: float, text: str, anchor: str, style: str = "tick") -> Markup:
    form = '<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>'
    return Markup(form).format(style, x, y, anchor, text)

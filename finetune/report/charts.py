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
from finetune.evaluate.metrics import ECE_BINS

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


@dataclass(frozen=True)
class Scale:
    """A straight map from data to drawing, for one axis."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """The place of `value` in the drawing."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that cover `low` to `high`, both finite."""
    span = (high - low) or abs(high) or 1.0
    raw = span / max(about - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def epoch_ticks(last: int, about: int = 8) -> list[int]:
    """Whole epochs from 0 to `last`, evenly apart."""
    step = max(1, math.ceil(last / about))
    return list(range(0, last + 1, step))


def curves(label: str, lines: Sequence[Line], thaws: Sequence[tuple[int, str]], mark: int | None) -> Markup:
    """Curves over epochs.

    Args:
        label: what a screen reader says of the picture.
        lines: the curves.
        thaws: (epoch, short text) at which a new phase starts, drawn between the epochs.
        mark: the epoch that was kept; its point on the last line gets a ring.
    """
    height, left, right, top, bottom = 210.0, 40.0, 412.0, 18.0, 184.0
    finite = [y for line in lines for _, y in line.points if math.isfinite(y)]
    last = int(max((x for line in lines for x, _ in line.points), default=0))
    marks = ticks(min(finite, default=0.0), max(finite, default=1.0))
    across = Scale(-0.35, last + 0.35, left, right)
    up = Scale(marks[0], marks[-1], bottom, top)
    parts = [_rule(left, right, up(value), _short(value, marks)) for value in marks]
    parts += [_text(across(epoch), bottom + 17, str(epoch), "middle") for epoch in epoch_ticks(last)]
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
    edges = np.linspace(0, 1, ECE_BINS + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, ECE_BINS - 1)
    found = []
    for number in np.unique(index):
        inside = index == number
        count, hits = int(inside.sum()), int(right[inside].sum())
        low, high = wilson(hits, count) or (0.0, 1.0)
        middle, sure = (float(number) + 0.5) / ECE_BINS, float(confidence[inside].mean())
        found.append(Bin(middle, count, sure, hits / count, low, high))
    return found


def calibration(label: str, bins: Sequence[Bin]) -> Markup:
    """Confidence against the share that is right, with intervals; below it, how many images each bin holds."""
    height, left, right, top, bottom = 320.0, 40.0, 412.0, 10.0, 232.0
    across, up = Scale(0, 1, left, right), Scale(0, 1, bottom, top)
    most = max((one.count for one in bins), default=1)
    tall = Scale(0, math.sqrt(most), 0, 40)  # roots, so that a bin with one image still shows
    parts = [_rule(left, right, up(value), f"{value:g}") for value in (0, 0.25, 0.5, 0.75, 1)]
    parts.append(_line(left, bottom, right, top, "ideal"))
    base = height - 24
    for one in bins:
        x, y = across(one.confidence), up(one.accuracy)
        parts.append(_line(x, up(one.low), x, up(one.high), "whisker"))
        parts.append(Markup('<circle class="dot-a" cx="{:.1f}" cy="{:.1f}" r="4.5"/>').format(x, y))
        size = tall(math.sqrt(one.count))
        box = '<rect class="count" x="{:.1f}" y="{:.1f}" width="20" height="{:.1f}"/>'
        parts.append(Markup(box).format(across(one.middle) - 10, base - size, size))
        if one.count == most:
            parts.append(_text(across(one.middle), base - size - 4, f"{one.count:,}", "middle"))
    parts.append(_line(left, base, right, base, "grid"))
    parts += [_text(across(value), height - 7, f"{value:g}", "middle") for value in (0, 0.25, 0.5, 0.75)]
    return _svg(label, height, [*parts, _text(across(1.0), height - 7, "1", "end")])


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


def _short(value: float, marks: Sequence[float]) -> str:
    """A tick's number with as many decimals as the distance of the ticks asks for."""
    step = abs(marks[1] - marks[0])
    return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"

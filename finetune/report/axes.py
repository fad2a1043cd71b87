"""Axes of the page's charts: round numbers beside them and the map from data to drawing, for every pair of floats.

Losses come as 2.2e-16 in every epoch, as 1e308 just before a run diverges, or not at all. A picture must not care: what
is not finite is left out, what differs by less than a millionth is drawn as a flat line, and what lies beyond
`LARGEST` is drawn at the edge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LARGEST, SMALLEST = 1e300, 1e-290
"""Magnitudes outside which a number is drawn as `LARGEST` or as 0, so that no difference or quotient overflows."""

FLAT = 1e-6
"""Range, relative to the numbers, below which they are taken for equal: the labels would need too many digits."""


@dataclass(frozen=True)
class Scale:
    """A straight map from data to drawing, for one axis; what lies outside is drawn at the edge."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """The place of `value`, a number, in the drawing."""
        inside = min(max(value, self.low), self.high)
        return self.start + (inside - self.low) / (self.high - self.low) * (self.stop - self.start)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart), at least two, that cover `low` to `high`.

    Args:
        low: any float; one that is not finite stands for the other end, or for 0 to 1 where neither is.
        high: any float; the smaller of both is taken for `low`.
        about: how many.

    Returns:
        Rising numbers, all finite and different. Equal ends get a range around them.
    """
    known = [_tame(value) for value in (low, high) if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    size = max(abs(low), abs(high))
    if high - low <= FLAT * size or high == low:
        around = 0.5 * size or 0.5
        low, high = (low - around, high + around) if low < 0 else (max(0.0, low - around), high + around)
    raw = (high - low) / max(about - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, max(last, first + 1) + 1)]


def epoch_ticks(last: int, first: int = 0, about: int = 8) -> list[int]:
    """Whole epochs from `first` to `last`, evenly apart."""
    return list(range(first, last + 1, max(1, math.ceil((last - first) / about))))


def tick_labels(marks: Sequence[float]) -> list[str]:
    """The numbers beside the ticks, as short as tells them apart; with exponents where they are tiny or huge."""
    step, most = abs(marks[1] - marks[0]), max(map(abs, marks))
    if step < 1e-5 or most >= 1e6:
        digits = max(0, math.ceil(math.log10(most / step) - 1e-9))
        return [
            "0" if value == 0 else f"{value:.{digits}e}".replace("e-0", "e-").replace("e+0", "e") for value in marks
        ]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{value:.{decimals}f}" for value in marks]


def _tame(value: float) -> float:
    """A finite float whose differences and quotients with others of them are finite."""
    return 0.0 if abs(value) < SMALLEST else max(-LARGEST, min(LARGEST, value))

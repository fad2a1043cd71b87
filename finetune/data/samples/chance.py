"""Draws from a generator as plain Python values."""

from __future__ import annotations

import numpy as np


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between `low` and `high`."""
    return float(rng.uniform(low, high))


def pick(rng: np.random.Generator, *names: str) -> str:
    """One of `names`, all as likely."""
    return names[int(rng.integers(len(names)))]

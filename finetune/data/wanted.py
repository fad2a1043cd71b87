"""Which images are wanted, and how they are read and split: the arguments that every source takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal


@dataclass(frozen=True)
class Wanted:
    """Which images a source shall give.

    Attributes:
        classes: only these, in this order; None for all, sorted by name.
        val: fraction for choosing the best epoch.
        test: fraction for judging; 0 for none.
        seed: of the split.
        on_bad: "stop" refuses unreadable images; "skip" leaves them out.
    """

    classes: tuple[str, ...] | None = None
    val: float = 0.15
    test: float = 0.15
    seed: int = 0
    on_bad: Literal["stop", "skip"] = "stop"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Wanted:
        """From the values of a recipe's `data`, of which those that are no concern of a source are left out."""
        flat = {**values, **values["split"]}
        return cls(**{field.name: flat[field.name] for field in fields(cls)})

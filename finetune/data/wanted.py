"""The arguments that every source takes: which images, and how they are found, read and split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from finetune.data.decode import Decoding
from finetune.data.walk import Rules


@dataclass(frozen=True)
class Wanted:
    """Which images a source shall give.

    Attributes:
        classes: only these, in this order; None for all, sorted by name.
        val: fraction for choosing the best epoch.
        test: fraction for evaluating; 0 for none.
        seed: of the split.
        on_bad: "stop" refuses unreadable images; "skip" leaves them out.
        links, extensions: see `finetune.data.walk.Rules`.
        group: what stays in one split, see `finetune.data.group.groups_of`; None: each content.
        range: the numbers that are black and white: "auto" (found in the images), "dtype", or two numbers.
        max_megapixels: larger images are refused.
    """

    classes: tuple[str, ...] | None = None
    val: float = 0.15
    test: float = 0.15
    seed: int = 0
    on_bad: Literal["stop", "skip"] = "stop"
    links: Literal["follow", "refuse"] = "follow"
    extensions: tuple[str, ...] | None = None
    group: str | None = None
    range: tuple[float, float] | Literal["auto", "dtype"] = "auto"
    max_megapixels: float = 100.0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Wanted:
        """From the values of a recipe's `data`, of which those that are no concern of a source are left out."""
        flat = {**values, **values["split"]}
        return cls(**{field.name: flat[field.name] for field in fields(cls)})

    @property
    def rules(self) -> Rules:
        """Which files are images."""
        return Rules(self.links, self.extensions)

    @property
    def decoding(self) -> Decoding:
        """How images are decoded in the scan, before a range is known."""
        return Decoding(None if self.range == "auto" else self.range, self.max_megapixels)


ALL = Wanted()
"""All images of a folder, found, read and split as usual."""

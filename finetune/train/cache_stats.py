"""Counts of what the feature cache did in a run, for run.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class CacheStats:
    """Counts of the feature cache over a run.

    Attributes:
        views: of each training image.
        bytes: the most that tables took at a time.
        computed: images (views) that went through the frozen layers to fill tables, in `seconds`.
        found: those whose tables were there already; to compute them once took `known` seconds.
        served: images that came out of a table.
        notes: what was not cached, and why.
        in_use: bytes of the present phase's tables.
    """

    views: int = 0
    bytes: int = 0
    computed: int = 0
    found: int = 0
    served: int = 0
    seconds: float = 0.0
    known: float = 0.0
    notes: list[str] = field(default_factory=list)
    in_use: int = 0

    def reserve(self, size: int) -> None:
        """Count `size` bytes of a phase's tables; `bytes` is the most that were in use at a time."""
        self.in_use += size
        self.bytes = max(self.bytes, self.in_use)

    def note(self, text: str) -> None:
        """Say something once."""
        if text and text not in self.notes:
            self.notes.append(text)

    def summary(self) -> str:
        """One line for people; empty where nothing was cached."""
        if not self.computed + self.found:
            return ""
        reused = f", {self.found:,} found from an earlier run" if self.found else ""
        size = f"{self.bytes / 1e6:,.1f} MB"
        return f"{self.computed:,} feature rows computed{reused} ({size}), about {self.seconds_saved:.0f} s saved"

    @property
    def seconds_saved(self) -> float:
        """Seconds that computing every served row anew would have cost more."""
        seconds_per_image = (self.seconds + self.known) / max(1, self.computed + self.found)
        return max(0, self.served - self.computed) * seconds_per_image

    def as_dict(self) -> dict[str, Any]:
        """The entry `cache` of run.json."""
        return {
            "views": self.views,
            "bytes": self.bytes,
            "computed": self.computed,
            "hits": self.found,
            "served": self.served,
            "seconds": round(self.seconds, 3),
            "seconds_saved": round(self.seconds_saved, 3),
            "notes": self.notes,
        }

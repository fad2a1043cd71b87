"""What may be kept of the work on frozen layers, and what was."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.device import free_memory
from finetune.train.store import Store

VIEWS = 4
"""Augmented views kept of each training image where nothing else is said; docs/log/ has the curve behind it."""

GB = 10**9


@dataclass(frozen=True)
class CachePlan:
    """What may be cached.

    Attributes:
        views: augmented views of each training image; None for `VIEWS`.
        ram_gb: for tables in memory.
        disk_gb: for all tables in `folder`.
        folder: where tables are filed for the next run; None for nowhere.
        on: whether to cache at all.
        exact: the validation images are what judges the network in the end, so their values are kept in full precision.
    """

    views: int | None = None
    ram_gb: float = 4.0
    disk_gb: float = 20.0
    folder: Path | None = None
    on: bool = True
    exact: bool = False

    def store(self) -> Store:
        """The folder of tables, with its budget."""
        return Store(self.folder, int(self.disk_gb * GB))

    def pictures(self) -> int:
        """Bytes of decoded pictures that each of training and validation may keep in memory."""
        return int(min(self.ram_gb * GB, free_memory() / 2) / 4) if self.on else 0

    def view_of(self, epoch: int, start: int, epochs: int) -> int:
        """The view that an epoch of a phase sees: its own where there are as many views as epochs, else in turn."""
        return epoch if self.views_for(epochs) >= epochs else (epoch - start) % self.views_for(epochs)

    def views_for(self, epochs: int) -> int:
        """How many views a phase of so many epochs keeps."""
        return min(self.views or VIEWS, epochs)


@dataclass
class Figures:
    """What the cache did, for run.json.

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
        if text not in self.notes:
            self.notes.append(text)

    def as_dict(self) -> dict[str, Any]:
        """With the seconds that were saved: what serving every image afresh would have cost more."""
        each = (self.seconds + self.known) / max(1, self.computed + self.found)
        saved = max(0, self.served - self.computed) * each
        return {
            "views": self.views,
            "bytes": self.bytes,
            "computed": self.computed,
            "hits": self.found,
            "served": self.served,
            "seconds": round(self.seconds, 3),
            "seconds_saved": round(saved, 3),
            "notes": self.notes,
        }

"""Limits on the feature cache: the key `train.cache` of a recipe as a typed value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finetune.device import free_memory
from finetune.train.store import Store

VIEWS = 4
"""Augmented views of each training image that are cached by default; docs/log/frozen.md has the curve behind it."""

GB = 10**9


@dataclass(frozen=True)
class CachePlan:
    """Limits on the feature cache: how many views, how many bytes, where.

    Attributes:
        views: augmented views of each training image; None for `VIEWS`.
        ram_gb: for tables in memory.
        disk_gb: for all tables in `folder`.
        folder: where tables are filed for the next run; None for nowhere.
        on: whether to cache at all.
    """

    views: int | None = None
    ram_gb: float = 4.0
    disk_gb: float = 20.0
    folder: Path | None = None
    on: bool = True

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

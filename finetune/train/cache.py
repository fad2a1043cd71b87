"""Work on frozen layers is done once: the values that cross the freeze line are computed once per image and view.

Features of one image differ in the last bits between batch sizes, so tables are filled in fixed blocks over the
path-sorted images and always as a whole; only so does a resumed run see the same bits.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.data.augment import Augment
from finetune.data.memory import AnyImages
from finetune.device import Compute, free_memory
from finetune.errors import ResourceError
from finetune.model.cut import Cut, Values
from finetune.train.store import Layout, Store

BLOCK = 32
"""Images that go through the prefix together. Part of the key: another size gives other last bits."""

VIEWS = 4
"""Augmented views kept of each training image where nothing else is said; docs/log.md has the curve behind it."""

PICKED = 2**21
"""Bytes of a table that are picked at once, where a batch is smaller: few enough to stay in the CPU's cache."""

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
    """What the cache did, for run.json."""

    views: int = 0
    bytes: int = 0
    computed: int = 0
    found: int = 0
    served: int = 0
    seconds: float = 0.0
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
        each = self.seconds / self.computed if self.computed else 0.0
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


def gathered(
    table: torch.Tensor, index_batches: Iterable[Sequence[int] | np.ndarray]
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """The rows of each batch, with its indices int64 [B]; small batches are picked several at once, which is faster.

    `table` is [N, values], or images [N, C, H, W] with channels_last strides.
    """
    images = table.ndim == 4
    lying = table.permute(0, 2, 3, 1) if images else table  # row by row in memory, so that `index_select` copies rows
    bytes_per_row = table[:1].numel() * table.element_size()
    batches = (np.asarray(batch, dtype=np.int64) for batch in index_batches)
    for first in batches:
        more = max(0, PICKED // max(1, len(first) * bytes_per_row) - 1)
        together = [first, *islice(batches, more)]
        rows = lying.index_select(0, torch.from_numpy(np.concatenate(together)))
        rows = rows.permute(0, 3, 1, 2) if images else rows
        yield from zip(together, torch.split(rows, [len(batch) for batch in together]), strict=True)


class Inputs:
    """What the learning part of a network takes: computed on the way, or out of a table.

    Args:
        images: a set of images.
        cut: of the phase.
        compute: where.
        plan: what may be cached.
        identity: all that the values depend on besides the images and their views.
        figures: kept up to date.
        augment: makes the views; None for pictures as they are judged.
        seed: of the views.
        views: how many different ones the phase will ask for, over all its epochs.
        asked: how often the phase will ask for the whole set.
        release: decoded pictures are let go of once all tables are filled, as nothing else will ask for them.
        tick: told (done, total) while a table is filled; may raise to stop.
    """

    def __init__(
        self,
        images: AnyImages,
        cut: Cut,
        compute: Compute,
        plan: CachePlan,
        identity: str,
        figures: Figures,
        *,
        augment: Augment | None = None,
        seed: int = 0,
        views: int = 1,
        asked: float = 1,
        release: bool = False,
        tick: Callable[[int, int], None] | None = None,
    ) -> None:
        self.images, self.cut, self.compute, self.figures = images, cut, compute, figures
        self.augment, self.seed, self.identity, self.tick, self.views = augment, seed, identity, tick, views
        self.release = release
        self.store = Store(plan.folder, int(plan.disk_gb * GB))
        self.layout: Layout | None = None
        self._tables: dict[int, torch.Tensor] = {}
        self.in_ram, self.size = True, 0
        worth = plan.on and not cut.whole and (asked > views or plan.views is not None)
        self.cached = worth and self._fits(plan, views)
        if self.cached and augment is not None:
            figures.views = max(figures.views, views)

    def batches(
        self, index_batches: Iterable[Sequence[int] | np.ndarray], view: int = 0
    ) -> Generator[tuple[np.ndarray, Values], None, None]:
        """Batch after batch: indices int64 [B] and the values of those images, on the device."""
        if self.cached:
            table = self._table(view)
            assert self.layout is not None
            for indices, rows in gathered(table, index_batches):
                self.figures.served += len(indices)
                yield indices, self.layout.unpack(rows.to(self.compute.device, non_blocking=True))
        elif self.cut.whole and (ready := self.images.ready(self.augment)) is not None:
            for indices, images in gathered(ready, index_batches):
                yield indices, (images.to(self.compute.device, non_blocking=True),)
        else:
            stream = self.images.batches(index_batches, self.augment, self.seed, view)
            try:
                for indices, pixels in stream:
                    yield indices, self.prefix(pixels)
            finally:
                stream.close()

    def prefix(self, pixels: torch.Tensor) -> Values:
        """The values that cross the freeze line, of pixels uint8 [N, H, W, C]."""
        images = self.images.preprocess.normalise(pixels.to(self.compute.device, non_blocking=True))
        if self.cut.whole:
            return (images,)
        with torch.no_grad(), self.compute.autocast():
            return self.cut.prefix(images)

    # --- tables ------------------------------------------------------------------------------------------------------

    def _fits(self, plan: CachePlan, views: int) -> bool:
        """Look at one image's values, and whether the tables have room; says why not."""
        values = self.prefix(self.images.pixels([0], self.augment, self.seed, 0))
        self.layout = Layout.of(values)
        if self.layout is None:
            self.figures.note(f"not cached: what crosses the cut {self.cut.where} is no batch of numbers")
            return False
        size = len(self.images) * self.layout.bytes_per_row * views
        self.in_ram = self.figures.in_use + size <= min(plan.ram_gb * GB, free_memory() / 2)
        if not self.in_ram and not self.store.has_room(size):
            self.figures.note(
                f"not cached: {views} views of {len(self.images):,} images need {size / GB:.2f} GB, more than the "
                f"budget (train.cache: ram_gb {plan.ram_gb:g}, disk_gb {plan.disk_gb:g})"
            )
            return False
        self.figures.reserve(size)
        self.size = size
        return True

    def _table(self, view: int) -> torch.Tensor:
        """The table of a view: as it is at hand, else as it was filed, else computed and filed."""
        if view not in self._tables:
            assert self.layout is not None
            key = self._key(view)
            rows, layout = len(self.images), self.layout
            table = self.store.find(key, rows, layout)
            if table is not None:
                self.figures.found += rows
                table = table.clone() if self.in_ram else table
            elif self.in_ram:
                table = torch.empty((rows, layout.width), dtype=layout.dtype)
                done = 0
                for block in self._compute(view):
                    table[done : done + len(block)] = block
                    done += len(block)
                if self.store.has_room(rows * layout.bytes_per_row):
                    self.store.file(key, rows, layout, [table])
            else:
                self.store.file(key, rows, layout, self._compute(view))
                table = self.store.find(key, rows, layout)
                if table is None:
                    raise ResourceError(
                        f"{self.store.path(key)}: a table of {rows * layout.bytes_per_row:,} bytes could not be kept",
                        "free some space there, give another folder with FINETUNE_CACHE, or set train.cache: off",
                    )
            self._tables[view] = table
            if self.release and len(self._tables) == self.views:
                self.images.forget()
        return self._tables[view]

    def _compute(self, view: int) -> Iterator[torch.Tensor]:
        """Blocks of rows, in the order of the images."""
        assert self.layout is not None
        clock = time.perf_counter()
        total = len(self.images)
        blocks = [np.arange(start, min(start + BLOCK, total)) for start in range(0, total, BLOCK)]
        stream = self.images.batches(blocks, self.augment, self.seed, view)
        try:
            for indices, pixels in stream:
                yield self.layout.pack(self.prefix(pixels)).cpu()
                self.figures.computed += len(indices)
                if self.tick:
                    self.tick(int(indices[-1]) + 1, total)
        finally:
            stream.close()
            self.figures.seconds += time.perf_counter() - clock

    def _key(self, view: int) -> str:
        """A hash over everything that the table's content depends on."""
        random = self.augment is not None and self.augment.random
        content = {
            "identity": self.identity,
            "cut": self.cut.where,
            "preprocess": self.images.preprocess.as_dict(),
            "augment": [self.augment.as_dict(), self.seed, view] if self.augment is not None and random else None,
            "block": BLOCK,
            "folded": "and fused",
            "device": self.compute.device.type,
            "precision": self.compute.precision,
            "channels_last": self.compute.channels_last,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "images": self.images.hashes,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

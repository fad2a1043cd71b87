"""Work on frozen layers is done once: the values that cross the freeze line are computed once per image and view.

Features of one image differ in the last bits between batch sizes, so tables are filled in fixed blocks over the
path-sorted images and always as a whole; only so does a resumed run see the same bits.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch

from finetune.data.augment import Augment
from finetune.data.batches import AnyImages
from finetune.device import Compute, free_memory, versions
from finetune.errors import ResourceError
from finetune.model.cut import Cut, Values
from finetune.speed.api import cache_key
from finetune.train.budget import GB, CachePlan, Figures
from finetune.train.store import Layout, Store

BLOCK = 32
"""Images that go through the prefix together. Part of the key: another size gives other last bits."""

PICKED = 2**19
"""Values that are picked at once, where a batch has fewer: few enough to stay in the CPU's cache."""

ALIGNED = 64
"""Bytes; a tensor of its own begins at a multiple of them."""


def gathered(
    table: torch.Tensor, index_batches: Iterable[Sequence[int] | np.ndarray], then: Callable[[torch.Tensor], Values]
) -> Iterator[tuple[np.ndarray, Values]]:
    """For each batch its indices, int64 [B], and what `then` makes of its rows of the table.

    Small batches are picked, and go through `then`, several at once, which is faster. Each begins where a tensor of its
    own would: products of matrices have other last bits where memory is aligned otherwise, and a resumed run picks
    other batches together.

    Args:
        table: [N, ...].
        index_batches: rows of each batch.
        then: from rows [M, ...] to values, each [M, ...]; it treats every row by itself.
    """
    values_per_row = table[:1].numel()
    batches = (np.asarray(batch, dtype=np.int64) for batch in index_batches)
    for first in batches:
        more = max(0, PICKED // max(1, len(first) * values_per_row) - 1)
        together = [first, *islice(batches, more)]
        found = then(table.index_select(0, torch.from_numpy(np.concatenate(together))))
        sizes = [len(batch) for batch in together]
        pieces = zip(*(torch.split(values, sizes) for values in found), strict=True)
        for indices, values in zip(together, pieces, strict=True):
            yield indices, tuple(value if value.data_ptr() % ALIGNED == 0 else value.clone() for value in values)


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
        store: where tables are filed; shared by the sets of a phase.
        was: whether the run cached this set before it was stopped, which then is not decided anew; None if it was not
            decided yet.
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
        store: Store | None = None,
        was: bool | None = None,
        release: bool = False,
        tick: Callable[[int, int], None] | None = None,
    ) -> None:
        self.images, self.cut, self.compute, self.figures = images, cut, compute, figures
        self.augment, self.seed, self.identity, self.tick, self.views = augment, seed, identity, tick, views
        self.release = release
        self.store = store or plan.store()
        self.layout: Layout | None = None
        self._tables: dict[int, torch.Tensor] = {}
        self.in_ram, self.size = True, 0
        self.reason = self._reason_not(plan, asked, was)
        self.cached = not self.reason
        if self.cached and augment is not None:
            figures.views = max(figures.views, views)

    def batches(
        self, index_batches: Iterable[Sequence[int] | np.ndarray], view: int = 0
    ) -> Generator[tuple[np.ndarray, Values], None, None]:
        """Batch after batch: indices int64 [B] and the values of those images, on the device."""
        if self.cached:
            table, layout = self._table(view), self.layout
            assert layout is not None
            for indices, values in gathered(
                table, index_batches, lambda rows: layout.unpack(rows.to(self.compute.device, non_blocking=True))
            ):
                self.figures.served += len(indices)
                yield indices, values
        elif self.cut.whole and (pictures := self.images.at_hand(self.augment)) is not None:
            yield from gathered(pictures, index_batches, self.prefix)
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

    def _reason_not(self, plan: CachePlan, asked: float, was: bool | None) -> str:
        """Why nothing is kept; empty if tables are, for which there is room.

        Raises:
            ResourceError: the run has kept tables until it was stopped, and there is no room for them now.
        """
        if not plan.on:
            return "train.cache is off"
        if self.cut.whole:
            return f"cut {self.cut.where}"
        if was is False:
            return "so it was decided when the phase began"
        once = asked <= self.views and plan.views is None and not was
        problem = self._no_room(plan, once)
        if problem and was:
            raise ResourceError(
                f"train.cache: {problem}; the run has used the cache so far, and without it would come to other bits",
                "free memory or disk space as there was when it began, or start again with `finetune run`",
            )
        if problem:
            self.figures.note(f"not cached: {problem}")
        return problem

    def _no_room(self, plan: CachePlan, once: bool) -> str:
        """Look at what a grey picture becomes, and whether such tables have room, which they take; else why not.

        Args:
            plan: the budgets.
            once: this run asks for each table once, so that it is worth the memory only if the next run finds it.
        """
        with torch.no_grad(), self.compute.autocast():
            self.layout = Layout.of(self.cut.prefix(self.images.preprocess.example().to(self.compute.device)))
        if self.layout is None:
            return f"what crosses the cut {self.cut.where} is no batch of numbers"
        each = len(self.images) * self.layout.bytes_per_row
        size = each * self.views
        self.in_ram = self.figures.in_use + size <= min(plan.ram_gb * GB, free_memory() / 2)
        keys = [self._key(view) for view in range(self.views)]
        if once and not (self.in_ram and self.store.fits(keys, each)):
            return "each view is seen once, and there is no room to keep it for the next run"
        if not self.in_ram and not self.store.promise(keys, each):
            return (
                f"{self.views} views of {len(self.images):,} images need {size / GB:.2f} GB, more than is free or than "
                f"the budget (train.cache: ram_gb {plan.ram_gb:g}, disk_gb {plan.disk_gb:g})"
            )
        self.figures.reserve(size)
        self.size = size
        return ""

    def _table(self, view: int) -> torch.Tensor:
        """The table of a view: as it is at hand, else as it was filed, else computed and filed."""
        if view not in self._tables:
            assert self.layout is not None
            key, rows, layout = self._key(view), len(self.images), self.layout
            found = self.store.find(key, rows, layout)
            if found is not None:
                self.images.confirm()  # as computing the table would: a run's end must not hang on what was kept before
                table, seconds = found
                self.figures.found += rows
                self.figures.known += rows * seconds
                table = table.clone() if self.in_ram else table
            else:
                table = self._in_memory(key, view) if self.in_ram else self._on_disk(key, view)
            self._tables[view] = table
            if self.release and len(self._tables) == self.views:
                self.images.forget()
        return self._tables[view]

    def _in_memory(self, key: str, view: int) -> torch.Tensor:
        """A table computed into memory, and filed for the next run if there is room."""
        assert self.layout is not None
        rows, layout, before = len(self.images), self.layout, self.figures.seconds
        table = torch.empty((rows, layout.width), dtype=layout.dtype)
        done = 0
        for block in self._compute(view):
            table[done : done + len(block)] = block
            done += len(block)
        if self.store.has_room(rows * layout.bytes_per_row):
            self.store.file(key, rows, layout, [table], lambda: (self.figures.seconds - before) / rows)
        return table

    def _on_disk(self, key: str, view: int) -> torch.Tensor:
        """A table computed into its file.

        Raises:
            ResourceError: it could not be written.
        """
        assert self.layout is not None
        rows, layout, before = len(self.images), self.layout, self.figures.seconds
        self.store.file(key, rows, layout, self._compute(view), lambda: (self.figures.seconds - before) / rows)
        found = self.store.find(key, rows, layout)
        if found is None:
            raise ResourceError(
                f"{self.store.path(key)}: a table of {rows * layout.bytes_per_row:,} bytes could not be kept",
                "free some space there, give another folder with FINETUNE_CACHE, or set train.cache: off",
            )
        return found[0]

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
            "speed": cache_key(self.compute),
            "device": self.compute.device.type,
            "precision": self.compute.precision,
            "channels_last": self.compute.channels_last,
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "images": self.images.hashes,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

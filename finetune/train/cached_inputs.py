"""The learning part's input: frozen features out of a table that is filled once, or computed on the way.

Most of fine-tuning a frozen backbone is spent on layers that do not change: the same picture gives the same features in
every epoch. So each view of an image goes through the frozen layers once, its features become a row of a table, and the
epochs read rows. Why this is the same training, to the bit, for a run that was stopped and resumed:

- Features of one image differ in the last bits between batch sizes. Tables are therefore filled in fixed blocks of
  `BLOCK` over the images in the order of their paths, and always as a whole.
- A batch of rows is made to begin where a tensor of its own would (`ALIGNED`): matrix products have other last bits
  where memory is aligned otherwise, and a resumed run picks other batches together.
- The decision to cache is not made here but taken from `cache_decision`, which a checkpoint remembers.

What would break it: an in-place operation at the start of the learning part (the cut leaves those in the prefix), rows
that depend on the batch they came in (BatchNorm that learns is never in the prefix), or a key that forgets something
(see `TableSource.key`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch

from finetune.errors import ResourceError
from finetune.model.cut import Values
from finetune.train.cache_decision import TableDecision
from finetune.train.cache_stats import CacheStats
from finetune.train.store import Store, in_blocks
from finetune.train.table_source import BLOCK

PICKED = 2**19
"""Values to pick at once, where a batch has fewer: few enough to stay in the CPU's cache."""

ALIGNED = 64
"""Bytes at whose multiples PyTorch lets a tensor of its own begin."""

Progress = Callable[[int, int], None]
"""Called with (done, total) while a table is filled; may raise to stop."""


def gather_rows(
    table: torch.Tensor, index_batches: Iterable[Sequence[int] | np.ndarray], then: Callable[[torch.Tensor], Values]
) -> Iterator[tuple[np.ndarray, Values]]:
    """For each batch its indices, int64 [B], and the values that `then` makes of its rows.

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
        extra = max(0, PICKED // max(1, len(first) * values_per_row) - 1)
        group = [first, *islice(batches, extra)]
        results = then(table.index_select(0, torch.from_numpy(np.concatenate(group))))
        sizes = [len(batch) for batch in group]
        pieces = zip(*(torch.split(values, sizes) for values in results), strict=True)
        for indices, values in zip(group, pieces, strict=True):
            yield indices, tuple(value if value.data_ptr() % ALIGNED == 0 else value.clone() for value in values)


class CachedInputs:
    """One set of images as values that cross the freeze line: out of tables where that was decided, else computed.

    Args:
        decision: whether there are tables, and where.
        store: the cache folder; shared by the sets of a phase.
        stats: kept up to date.
        release: let go of decoded pictures once all tables are filled, as nothing else will ask for them.
        tick: told (done, total) while a table is filled; may raise to stop.
    """

    def __init__(
        self,
        decision: TableDecision,
        store: Store,
        stats: CacheStats,
        *,
        release: bool = False,
        tick: Progress | None = None,
    ) -> None:
        self.decision, self.source, self.store, self.stats = decision, decision.source, store, stats
        self.release, self.tick = release, tick
        self._tables: dict[int, torch.Tensor] = {}
        self._parts = 1
        if decision.cached:
            stats.reserve(decision.size)
            if not decision.in_memory:
                store.reserve(decision.keys(), decision.bytes_per_view)
            if self.source.augment is not None:
                stats.views = max(stats.views, self.source.views)

    def batches(
        self, index_batches: Iterable[Sequence[int] | np.ndarray], view: int = 0
    ) -> Generator[tuple[np.ndarray, Values], None, None]:
        """Batch after batch: indices int64 [B] and the values of those images, on the device."""
        source, layout = self.source, self.decision.layout
        if self.decision.cached and layout is not None:
            device = source.compute.device
            rows = gather_rows(
                self._table(view), index_batches, lambda rows: layout.unpack(rows.to(device, non_blocking=True))
            )
            for indices, values in rows:
                self.stats.served += len(indices)
                yield indices, values
        elif source.cut.no_prefix and (pictures := source.images.decoded_pixels(source.augment)) is not None:
            yield from gather_rows(pictures, index_batches, source.values)
        else:
            stream = source.images.batches(index_batches, source.augment, source.seed, view)
            try:
                for indices, pixels in stream:
                    yield indices, source.values(pixels)
            finally:
                stream.close()

    def fill(self, view: int) -> None:
        """Fill the table of a view, where there is to be one."""
        if self.decision.cached:
            self._table(view)

    def fill_part(self, view: int, part: int, parts: int) -> None:
        """Compute one of so many parts of a view's table, and file it, for the process that will fill the table.

        Parts are made of the same blocks as the whole, so the table has the same bits. Nothing is done where the table
        is there, or the part finds no room in the cache folder: then it is computed when the table is filled.
        """
        layout, key = self.decision.layout, self.source.key(view)
        path, self._parts = self.store.path(key), parts
        if layout is None or not self.decision.cached or view in self._tables or path is None or path.exists():
            return
        blocks, before = self._blocks()[part], self.stats.seconds
        rows = sum(map(len, blocks))
        if rows and self.store.has_room(rows * layout.bytes_per_row):
            self.store.save(
                _part_key(key, part, parts),
                rows,
                layout,
                self._compute(view, blocks),
                lambda: (self.stats.seconds - before) / rows,
            )

    def _blocks(self) -> list[list[np.ndarray]]:
        """The images in blocks that go through the frozen layers together, int64 [B] each, by parts."""
        total = len(self.source.images)
        starts = np.arange(0, total, BLOCK)
        return [
            [np.arange(start, min(start + BLOCK, total)) for start in some]
            for some in np.array_split(starts, self._parts)
        ]

    def _table(self, view: int) -> torch.Tensor:
        """The table of a view: from memory, else from the cache folder, else computed and saved."""
        if view not in self._tables:
            decision, images = self.decision, self.source.images
            assert decision.layout is not None
            key, rows = self.source.key(view), len(images)
            filed = self.store.load(key, rows, decision.layout)
            if filed is not None:
                self._drop_parts(key)
                # computing the table would have noticed a changed file; finding the table must not hide it
                images.require_unchanged()
                table, seconds = filed
                self.stats.found += rows
                self.stats.known += rows * seconds
                table = table.clone() if decision.in_memory else table
            else:
                table = self._in_memory(key, view) if decision.in_memory else self._on_disk(key, view)
            self._tables[view] = table
            if self.release and len(self._tables) == self.source.views:
                images.release_pictures()
        return self._tables[view]

    def _in_memory(self, key: str, view: int) -> torch.Tensor:
        """A table computed into memory, and filed for the next run if there is room."""
        layout = self.decision.layout
        assert layout is not None
        rows, seconds_before = len(self.source.images), self.stats.seconds
        table = torch.empty((rows, layout.width), dtype=layout.dtype)
        done = 0
        for block in self._rows(key, view):
            table[done : done + len(block)] = block
            done += len(block)
        self._drop_parts(key)
        if self.store.has_room(rows * layout.bytes_per_row):
            self.store.save(key, rows, layout, [table], lambda: (self.stats.seconds - seconds_before) / rows)
        return table

    def _on_disk(self, key: str, view: int) -> torch.Tensor:
        """A table computed into its file.

        Raises:
            ResourceError: it could not be written.
        """
        layout = self.decision.layout
        assert layout is not None
        rows, seconds_before = len(self.source.images), self.stats.seconds
        self.store.save(key, rows, layout, self._rows(key, view), lambda: (self.stats.seconds - seconds_before) / rows)
        self._drop_parts(key)
        filed = self.store.load(key, rows, layout)
        if filed is None:
            raise ResourceError(
                f"{self.store.path(key)}: a table of {rows * layout.bytes_per_row:,} bytes could not be kept",
                "free some space there, give another folder with FINETUNE_CACHE, or set train.cache: off",
            )
        return filed[0]

    def _rows(self, key: str, view: int) -> Iterator[torch.Tensor]:
        """Blocks of rows, in the order of the images: out of the parts that were filed, the others computed."""
        layout = self.decision.layout
        assert layout is not None
        for part, blocks in enumerate(self._blocks()):
            rows = sum(map(len, blocks))
            filed = self.store.load(_part_key(key, part, self._parts), rows, layout) if self._parts > 1 else None
            if filed is None:
                yield from self._compute(view, blocks)
            else:
                # a killed process may have left the part, and its images have changed since
                self.source.images.require_unchanged()
                self.stats.seconds += rows * filed[1] if part else 0.0  # the first part is this process's own
                self.stats.computed += rows if part else 0
                yield from in_blocks(filed[0], BLOCK)

    def _drop_parts(self, key: str) -> None:
        for part in range(self._parts) if self._parts > 1 else ():
            self.store.drop(_part_key(key, part, self._parts))

    def _compute(self, view: int, blocks: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        """Blocks of rows, as the frozen layers make them."""
        layout, source = self.decision.layout, self.source
        assert layout is not None
        clock, total = time.perf_counter(), len(source.images)
        stream = source.images.batches(blocks, source.augment, source.seed, view)
        try:
            for indices, pixels in stream:
                yield layout.pack(source.values(pixels)).cpu()
                self.stats.computed += len(indices)
                if self.tick:
                    self.tick(int(indices[-1]) + 1, total)
        finally:
            stream.close()
            self.stats.seconds += time.perf_counter() - clock


def _part_key(key: str, part: int, parts: int) -> str:
    return f"{key}-{part}-of-{parts}"

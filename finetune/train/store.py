"""Tables of what the frozen prefix made of images: one row an image, in RAM or memory-mapped, filed by content.

A table is one safetensors file with one tensor `rows` [images, values]; the name is a hash of everything that its
content depends on. It is published whole by the atomic writer, so a half-written one is never found.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from finetune.errors import FinetuneError
from finetune.files import TEMPORARY, write_atomic

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
SUFFIX = ".safetensors"

ABANDONED = 3600.0
"""Seconds without a write after which a half-written table is taken for one that a killed process left."""


@dataclass(frozen=True)
class Layout:
    """How the values that cross the freeze line lie in a row: shapes without the batch, formats, one common dtype."""

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    channels_last: tuple[bool, ...]

    @classmethod
    def of(cls, values: tuple[torch.Tensor, ...]) -> Layout | None:
        """The layout of a batch of values; None if one of them is no batch of floating-point rows."""
        batch = values[0].shape[:1]
        if any(value.dtype not in DTYPES or value.shape[:1] != batch or value.ndim < 2 for value in values):
            return None
        nhwc = tuple(v.ndim == 4 and v.is_contiguous(memory_format=torch.channels_last) for v in values)
        return cls(tuple(tuple(v.shape[1:]) for v in values), tuple(v.dtype for v in values), nhwc)

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows: that of the values, or float32, which holds all of them exactly."""
        return self.dtypes[0] if len(set(self.dtypes)) == 1 else torch.float32

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return sum(torch.Size(shape).numel() for shape in self.shapes)

    @property
    def bytes_per_row(self) -> int:
        """What an image costs."""
        return self.width * self.dtype.itemsize

    def pack(self, values: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """A batch of values as rows [N, width], in the order in which they lie in memory."""
        flat = [
            (value.permute(0, 2, 3, 1) if nhwc else value).flatten(1).to(self.dtype)
            for value, nhwc in zip(values, self.channels_last, strict=True)
        ]
        return flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)

    def unpack(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The values again, bit by bit, in their shapes and memory formats."""
        parts = torch.split(rows, [torch.Size(shape).numel() for shape in self.shapes], dim=1)
        values = []
        for part, shape, dtype, nhwc in zip(parts, self.shapes, self.dtypes, self.channels_last, strict=True):
            if len(self.shapes) > 1:
                part = part.contiguous()
            if nhwc:
                channels, height, width = shape
                value = part.reshape(len(rows), height, width, channels).permute(0, 3, 1, 2)
            else:
                value = part.reshape(len(rows), *shape)
            values.append(value.to(dtype))
        return tuple(values)


class Store:
    """The folder of tables, with a limit on its size; the tables longest unused go first.

    Args:
        folder: made when the first table is filed; None keeps nothing on disk.
        limit: bytes.
    """

    def __init__(self, folder: Path | None, limit: int) -> None:
        self.folder, self.limit = folder, limit

    def path(self, key: str) -> Path | None:
        """Where the table `key` is, or would be."""
        return None if self.folder is None else self.folder / f"{key}{SUFFIX}"

    def find(self, key: str, rows: int, layout: Layout) -> torch.Tensor | None:
        """The table `key`, memory-mapped; None if there is no whole one."""
        path = self.path(key)
        if path is None or not path.is_file():
            return None
        try:
            table = load_file(path)["rows"]
        except (SafetensorError, OSError, KeyError, ValueError):
            return None
        if table.shape != (rows, layout.width) or table.dtype != layout.dtype:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the time of last use, by which tables are dropped
        return table

    def has_room(self, size: int) -> bool:
        """Whether a table of `size` bytes may be filed, others dropped for it if need be."""
        if self.folder is None or size > self.limit:
            return False
        place = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        stats = os.statvfs(place)
        return stats.f_bavail * stats.f_frsize > size + 2**30

    def file(self, key: str, rows: int, layout: Layout, blocks: Iterable[torch.Tensor]) -> bool:
        """Publish a table from its blocks of rows; False if it could not be written, which is no reason to stop."""
        path = self.path(key)
        if path is None:
            return False
        self._make_room(rows * layout.bytes_per_row)
        try:
            write_atomic(path, _writer(rows, layout, blocks))
        except FinetuneError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            return False
        return True

    def tables(self) -> list[tuple[Path, os.stat_result]]:
        """All tables, longest unused first."""
        found = []
        for path in self.folder.glob(f"*{SUFFIX}") if self.folder is not None else ():
            with contextlib.suppress(OSError):
                found.append((path, path.stat()))
        return sorted(found, key=lambda item: item[1].st_mtime)

    def clear(self) -> int:
        """Remove every table; returns the bytes that are free again."""
        freed = self._drop_abandoned()
        for path, stats in self.tables():
            with contextlib.suppress(OSError):
                path.unlink()
                freed += stats.st_size
        return freed

    def _drop_abandoned(self) -> int:
        """Remove what killed processes left half-written; returns the bytes that are free again."""
        freed = 0
        for path in self.folder.glob(f".*{SUFFIX}.*{TEMPORARY}") if self.folder is not None else ():
            with contextlib.suppress(OSError):
                stats = path.stat()
                if time.time() - stats.st_mtime > ABANDONED:
                    path.unlink()
                    freed += stats.st_size
        return freed

    def _make_room(self, size: int) -> None:
        self._drop_abandoned()
        tables = self.tables()
        used = sum(stats.st_size for _, stats in tables)
        for path, stats in tables:
            if used + size <= self.limit:
                break
            with contextlib.suppress(OSError):
                path.unlink()
                used -= stats.st_size


def _writer(rows: int, layout: Layout, blocks: Iterable[torch.Tensor]) -> Callable[[BinaryIO], None]:
    """Writes a safetensors file of one tensor, block after block, without ever holding all of it."""
    end = rows * layout.bytes_per_row
    entry = {"dtype": DTYPES[layout.dtype], "shape": [rows, layout.width], "data_offsets": [0, end]}
    header = json.dumps({"rows": entry}).encode()
    header += b" " * (-len(header) % 8)

    def write(file: BinaryIO) -> None:
        file.write(struct.pack("<Q", len(header)) + header)
        for block in blocks:
            file.write(block.contiguous().view(torch.uint8).numpy().tobytes())

    return write


def in_blocks(table: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """The rows of a table, `size` at a time."""
    for start in range(0, len(table), size):
        yield table[start : start + size]

"""Tables of frozen features: one row an image, in RAM or memory-mapped, filed by content.

A table is one safetensors file with one tensor `rows` [images, values]; the name is a hash of everything that its
content depends on. It is published whole by the atomic writer, so a half-written one is never found, and it holds the
hash of its rows, so a damaged one is not, either.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from finetune.append import is_abandoned
from finetune.errors import FinetuneError
from finetune.files import TEMPORARY, can_be_made, write_atomic

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
SUFFIX = ".safetensors"

HALF_WRITTEN = f".*{SUFFIX}.*{TEMPORARY}"
ABANDONED = 60.0
"""Seconds without a write after which a half-written table that nobody holds is one that a killed process left."""


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
        """The dtype of the rows: that of the values, or float32, which holds all of them exactly."""
        return self.dtypes[0] if len(set(self.dtypes)) == 1 else torch.float32

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return sum(torch.Size(shape).numel() for shape in self.shapes)

    @property
    def bytes_per_row(self) -> int:
        """Bytes of one row, that is of one image."""
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

    Those that this store has found, filed or promised room to are in use and stay.

    Args:
        folder: made when the first table is filed; None keeps nothing on disk.
        limit: bytes.
    """

    def __init__(self, folder: Path | None, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._own: dict[Path, int] = {}

    @property
    def problem(self) -> str:
        """Why nothing can be filed; empty if it can."""
        if self.folder is None or can_be_made(self.folder):
            return ""
        return f"nothing is kept for the next run: {self.folder} cannot be written to (FINETUNE_CACHE names another)"

    def path(self, key: str) -> Path | None:
        """The path of the table `key`, whether or not it exists; None without a folder."""
        return None if self.folder is None else self.folder / f"{key}{SUFFIX}"

    def load(self, key: str, rows: int, layout: Layout) -> tuple[torch.Tensor, float] | None:
        """The table `key`, memory-mapped, with the seconds that an image took; None if there is no whole one."""
        path = self.path(key)
        if path is None or not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
            table, seconds = load_file(path)["rows"], float(metadata["seconds"])
        except (SafetensorError, OSError, KeyError, ValueError):  # damaged or gone: it is computed anew
            return None
        if table.shape != (rows, layout.width) or table.dtype != layout.dtype:
            return None
        # reading every byte costs less than computing it, and a damaged row would train on noise without a word
        if hashlib.sha256(_bytes(table)).hexdigest() != metadata.get("sha256"):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the time of last use, by which tables are dropped
        self._keep(path, rows * layout.bytes_per_row)
        return table, seconds

    def fits(self, keys: Iterable[str], size: int, beside: int = 0) -> bool:
        """Whether tables of `size` bytes each have room; those that are there already need no space on the disk.

        Args:
            keys: name them.
            size: of each, in bytes.
            beside: bytes that other tables will take, which are not promised yet.
        """
        paths = self._paths(keys)
        new = size * sum(not path.exists() for path in paths)
        return self.has_room(size * len(paths) + beside, new + beside)

    def reserve(self, keys: Sequence[str], size: int) -> bool:
        """Set room aside for tables of `size` bytes each that have no other place; False if there is not enough.

        It counts against the limit from now on.
        """
        if not self.fits(keys, size):
            return False
        self._own.update(dict.fromkeys(self._paths(keys), size))
        return True

    def _paths(self, keys: Iterable[str]) -> list[Path]:
        return [path for key in keys if (path := self.path(key)) is not None]

    def has_room(self, size: int, new: int | None = None) -> bool:
        """Whether `size` bytes more may be filed, others dropped for it if need be; `new` of them are not there yet."""
        if self.folder is None or self.problem or sum(self._own.values()) + size > self.limit:
            return False
        existing_folder = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        disk = os.statvfs(existing_folder)
        return new == 0 or disk.f_bavail * disk.f_frsize > (size if new is None else new) + 2**30

    def save(
        self,
        key: str,
        rows: int,
        layout: Layout,
        blocks: Iterable[torch.Tensor],
        seconds: Callable[[], float] = lambda: 0.0,
    ) -> bool:
        """Publish a table from its blocks of rows; False if it could not be written, which is no reason to stop.

        Args:
            key: names it.
            rows: how many there are.
            layout: of a row.
            blocks: together they are the rows.
            seconds: asked at the end: what an image took.
        """
        path, size = self.path(key), rows * layout.bytes_per_row
        if path is None:
            return False
        if not self._make_room(size) and path not in self._own:
            return False
        try:
            write_atomic(path, _writer(rows, layout, blocks, seconds))
        except FinetuneError as error:
            if not isinstance(error.__cause__, OSError):
                raise  # the blocks are computed while they are written: an error may be of an image, not of the disk
            return False
        self._keep(path, size)
        return True

    def drop(self, key: str) -> None:
        """Remove the table `key`, if it is there; its room may be used for others."""
        path = self.path(key)
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            self._own.pop(path, None)

    def tables(self) -> list[tuple[Path, os.stat_result]]:
        """All tables, longest unused first."""
        return sorted(self._listed(f"*{SUFFIX}"), key=lambda item: item[1].st_mtime)

    def clear(self) -> int:
        """Remove every table, and what was left half-written; returns the bytes that are free again."""
        freed = self._drop_abandoned(0)
        for path, stats in self.tables():
            with contextlib.suppress(OSError):
                path.unlink()
                freed += stats.st_size
        return freed

    def _listed(self, pattern: str) -> list[tuple[Path, os.stat_result]]:
        listed = []
        for path in self.folder.glob(pattern) if self.folder is not None else ():
            with contextlib.suppress(OSError):
                listed.append((path, path.stat()))
        return listed

    def _keep(self, path: Path, size: int) -> None:
        """Note that a table is in use, unless the room for others would not suffice then."""
        if sum(self._own.values()) + size <= self.limit:
            self._own.setdefault(path, size)

    def _drop_abandoned(self, age: float) -> int:
        """Remove what killed processes left half-written; returns the bytes that are free again."""
        freed = 0
        for path, stats in self._listed(HALF_WRITTEN):
            if is_abandoned(path, age):
                with contextlib.suppress(OSError):
                    path.unlink()
                    freed += stats.st_size
        return freed

    def _make_room(self, size: int) -> bool:
        """Drop what is longest unused until `size` bytes more are within the limit; False if they are not."""
        self._drop_abandoned(ABANDONED)
        tables = self.tables()
        used = sum(stats.st_size for _, stats in [*tables, *self._listed(HALF_WRITTEN)])
        for path, stats in tables:
            if used + size <= self.limit:
                break
            if path not in self._own:
                with contextlib.suppress(OSError):
                    path.unlink()
                    used -= stats.st_size
        return used + size <= self.limit


def _bytes(rows: torch.Tensor) -> memoryview:
    """The bytes of rows [N, width], not copied where they lie one after the other."""
    return rows.contiguous().view(torch.uint8).numpy().data.cast("B")


def _writer(
    rows: int, layout: Layout, blocks: Iterable[torch.Tensor], seconds: Callable[[], float]
) -> Callable[[BinaryIO], None]:
    """Writes a safetensors file of one tensor, block after block, without ever holding all of it."""

    def header(sha256: str, seconds: float) -> bytes:
        entry = {
            "dtype": DTYPES[layout.dtype],
            "shape": [rows, layout.width],
            "data_offsets": [0, rows * layout.bytes_per_row],
        }
        text = json.dumps({"__metadata__": {"sha256": sha256, "seconds": f"{seconds:016.9f}"}, "rows": entry}).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text

    def write(file: BinaryIO) -> None:
        digest = hashlib.sha256()
        file.write(header("0" * 64, 0.0))
        for block in blocks:
            content = _bytes(block)
            digest.update(content)
            file.write(content)
        file.seek(0)
        file.write(header(digest.hexdigest(), seconds()))  # as long as the first, which held its place

    return write


def in_blocks(table: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """The rows of a table, `size` at a time."""
    for start in range(0, len(table), size):
        yield table[start : start + size]

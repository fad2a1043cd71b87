"""What every vector database must do for us: the protocol, and the columns of a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from finetune.deliver.vectors.where import Condition

TABLE = "vectors"
"""Name of the table in its database."""

ROWS_AT_ONCE = 8192
"""Rows that are read into memory together."""


def schema_of(features: int) -> pa.Schema:
    """The columns: what is known of an image, and its vector, float32 [features]."""
    texts = [pa.field(name, pa.string()) for name in ("path", "class", "split", "sha256", "prediction")]
    return pa.schema(
        [*texts, pa.field("confidence", pa.float64()), pa.field("vector", pa.list_(pa.float32(), features))]
    )


def vectors_of(rows: pa.Table | pa.RecordBatch) -> np.ndarray:
    """The vectors of some rows, float32 [N, features]."""
    column = rows["vector"]
    flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    width = column.type.list_size
    values = np.asarray(flat.flatten(), dtype=np.float32)
    return values.reshape(-1, width)


def vector_column(vectors: np.ndarray) -> Any:
    """Vectors, float32 [N, features], as Arrow keeps them."""
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])


@dataclass(frozen=True)
class Candidates:
    """Rows that may be nearest to a query; the exact distances are computed from their vectors.

    Attributes:
        rows: with the columns path, class and sha256, at least.
        vectors: float32 [N, features].
    """

    rows: list[dict[str, Any]]
    vectors: np.ndarray


class Table(Protocol):
    """A table of vectors on the disk. Every change is atomic: a kill leaves the rows as before it or as after it."""

    folder: Path

    def count(self) -> int:
        """How many rows there are."""

    def read(self, columns: Sequence[str], where: Sequence[Condition] = ()) -> Iterator[pa.RecordBatch]:
        """The rows that meet all conditions, `ROWS_AT_ONCE` or so at a time."""

    def add(self, rows: pa.Table) -> None:
        """Add rows, whose paths are new."""

    def replace(self, rows: pa.Table) -> None:
        """Put rows in the place of those with the same paths; new paths are added."""

    def drop(self, paths: Sequence[str]) -> None:
        """Take out the rows of these paths."""

    def candidates(self, queries: np.ndarray, k: int, where: Sequence[Condition] = ()) -> list[Candidates]:
        """For each query at least the `k` nearest rows that meet all conditions, in any order.

        Args:
            queries: float32 [Q, features].
            k: how many.
            where: all must hold.
        """

    def settle(self) -> None:
        """Compact the table after many changes, and remove what is no longer needed."""

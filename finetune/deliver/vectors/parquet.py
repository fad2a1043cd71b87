"""Vectors in Parquet files, searched exactly: needs nothing besides Arrow and NumPy.

The table is a list of parts, `parts.json`, and a Parquet file for each. A part is never changed: a change writes new
parts, then the list, then deletes what the list no longer names. So the list is always true, wherever a kill falls.

In the files a vector is its bytes, float32 little-endian, which are read six times as fast as a list of numbers:
`np.frombuffer(row["vector"], "<f4")`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finetune.deliver.vectors.distance import SPARE, roughly_nearest
from finetune.deliver.vectors.table import ROWS_AT_ONCE, Candidates, vector_column, vectors_of
from finetune.deliver.vectors.where import COLUMNS, Condition
from finetune.errors import ArtefactError
from finetune.files import make_folder, read_json, write_atomic, write_json

LIST = "parts.json"
PART_ROWS = 16_384
"""Rows that small parts are joined to: 80 MB at 1,280 features."""

_BROKEN = "delete the store and make it again with `finetune embed` or `ft.embed`"


class ParquetTable:
    """See `finetune.deliver.vectors.table.Table`.

    Args:
        folder: of the parts; made if absent.
        schema: of the rows.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.folder, self.schema = folder, schema
        self._parts: list[dict[str, Any]] = []
        if (folder / LIST).is_file():
            self._parts = self._listed(read_json(folder / LIST))

    def _listed(self, value: Any) -> list[dict[str, Any]]:
        parts = value.get("parts") if isinstance(value, dict) else None
        if not isinstance(parts, list) or not all(isinstance(p, dict) and {"name", "rows"} <= p.keys() for p in parts):
            raise ArtefactError(f"{self.folder / LIST}: no list of parts", _BROKEN)
        missing = [p["name"] for p in parts if not (self.folder / Path(str(p["name"])).name).is_file()]
        if missing:
            raise ArtefactError([f"{self.folder / name}: missing" for name in missing], _BROKEN)
        return parts

    def count(self) -> int:
        """How many rows there are."""
        return sum(int(part["rows"]) for part in self._parts)

    def read(self, columns: Sequence[str], where: Sequence[Condition] = ()) -> Iterator[pa.RecordBatch]:
        """The rows that meet all conditions, some at a time."""
        wanted = list(dict.fromkeys([*columns, *(condition.column for condition in where)]))
        for part in self._parts:
            for batch in self._batches(part["name"], wanted):
                kept = batch
                for condition in where:
                    kept = kept.filter(condition.as_expression())
                yield kept.select(list(columns))

    def _batches(self, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        path = self.folder / Path(name).name
        try:
            with pq.ParquetFile(path) as file:
                yield from (_with_numbers(one) for one in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns))
        except (OSError, pa.ArrowException) as error:
            raise ArtefactError(f"{path}: not a whole Parquet file: {str(error).splitlines()[0]}", _BROKEN) from error

    def add(self, rows: pa.Table) -> None:
        """Add rows, whose paths are new."""
        self._publish([*self._parts, *self._written(rows)])

    def replace(self, rows: pa.Table) -> None:
        """Put rows in the place of those with the same paths."""
        self._publish([*self._without(set(rows["path"].to_pylist())), *self._written(rows)])

    def drop(self, paths: Sequence[str]) -> None:
        """Take out the rows of these paths."""
        self._publish(self._without(set(paths)))

    def _without(self, paths: set[str]) -> list[dict[str, Any]]:
        """The parts, those that have some of the paths written anew."""
        kept: list[dict[str, Any]] = []
        for part in self._parts:
            here = [path for batch in self._batches(part["name"], ["path"]) for path in batch["path"].to_pylist()]
            mask = np.array([path not in paths for path in here], dtype=bool)
            if mask.all():
                kept.append(part)
            elif mask.any():
                kept += self._written(self._whole(part["name"]).filter(pa.array(mask)))
        return kept

    def _whole(self, name: str) -> pa.Table:
        return pa.Table.from_batches(list(self._batches(name)), self.schema)

    def _written(self, rows: pa.Table) -> list[dict[str, Any]]:
        if not len(rows):
            return []
        name = f"part-{secrets.token_hex(8)}.parquet"
        # vectors hardly compress, and a dictionary of them would only cost time
        write_atomic(
            self.folder / name,
            lambda file: pq.write_table(_with_bytes(rows), file, compression="NONE", use_dictionary=["class", "split"]),
        )
        return [{"name": name, "rows": len(rows)}]

    def _publish(self, parts: list[dict[str, Any]]) -> None:
        make_folder(self.folder)
        write_json(self.folder / LIST, {"parts": parts})
        self._parts = parts

    def candidates(self, queries: np.ndarray, k: int, where: Sequence[Condition] = ()) -> list[Candidates]:
        """For each query the `k` nearest rows and some more, by exact search through all rows."""
        best: list[list[tuple[float, dict[str, Any], np.ndarray]]] = [[] for _ in queries]
        for batch in self.read([*COLUMNS, "vector"], where):
            if not len(batch):
                continue
            vectors = vectors_of(batch)
            places, rough = roughly_nearest(queries, vectors, k + SPARE)
            about = batch.drop_columns(["vector"])
            for found, row, distances in zip(best, places, rough, strict=True):
                worst = found[-1][0] if len(found) >= k + SPARE else np.inf
                near = [(d, int(i)) for d, i in zip(distances.tolist(), row, strict=True) if d < worst]
                found += [(d, about.slice(i, 1).to_pylist()[0], vectors[i].copy()) for d, i in near]
                found.sort(key=lambda item: item[0])
                del found[k + SPARE :]
        empty = np.empty((0, queries.shape[1]), dtype=np.float32)
        return [
            Candidates([row for _, row, _ in found], np.stack([v for _, _, v in found]) if found else empty)
            for found in best
        ]

    def settle(self) -> None:
        """Join small parts, and delete the files that no list names."""
        joined: list[dict[str, Any]] = []
        small: list[dict[str, Any]] = []
        for part in self._parts:
            if sum(int(p["rows"]) for p in (*small, part)) > PART_ROWS:
                joined += self._joined(small)
                small = []
            small.append(part)
        joined += self._joined(small)
        if joined != self._parts:
            self._publish(joined)
        named = {part["name"] for part in self._parts}
        for path in self.folder.glob("part-*.parquet"):
            if path.name not in named:
                path.unlink(missing_ok=True)

    def _joined(self, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if len(parts) < 2:
            return parts
        return self._written(pa.concat_tables([self._whole(part["name"]) for part in parts]))


def _with_bytes(rows: pa.Table) -> pa.Table:
    """Rows as they are in a file."""
    values = np.ascontiguousarray(vectors_of(rows), dtype="<f4")
    kind = pa.binary(4 * values.shape[1])
    column = pa.FixedSizeBinaryArray.from_buffers(kind, len(values), [None, pa.py_buffer(values)])
    return rows.set_column(rows.schema.get_field_index("vector"), "vector", column)


def _with_numbers(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Rows of a file as they are in memory."""
    place = batch.schema.get_field_index("vector")
    if place < 0:
        return batch
    column, kind = batch.column(place), batch.schema.field(place).type
    values = np.frombuffer(
        column.buffers()[1], "<f4", len(column) * kind.byte_width // 4, column.offset * kind.byte_width
    )
    return batch.set_column(
        place, "vector", vector_column(values.reshape(len(column), -1).astype(np.float32, copy=False))
    )

"""Predictions in a file that grows while they are made, and to which a later call adds what is missing.

CSV and JSON lines grow in place, a batch at a time; a line that a crash cut short is cut off and made again. Parquet
cannot grow, so its rows gather as lines in FILE.rows beside it, and become the file in one step at the end.

Which files have a row already is kept as 8 bytes each, so a million of them take 8 MB.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from finetune.append import growing
from finetune.deliver.predict import Prediction
from finetune.errors import ArtefactError, ResourceError, UsageError, resuming
from finetune.files import cell, to_json, visible, write_atomic

FORMATS = (".csv", ".jsonl", ".parquet")
FIRST = ("path", "label", "confidence", "abstained", "error")
"""Columns before those of the classes' probabilities."""

CHUNK = 10_000
"""Rows of a Parquet file that are in memory at once."""


class PredictionTable:
    """The rows of FILE.csv, FILE.jsonl or FILE.parquet.

    Args:
        path: the file.
        classes: names, for the columns of their probabilities.
        topk: how many classes a row of JSON lines names.
        resume: add to what is there.

    Raises:
        UsageError: a name of another kind, a file that is there already, or one of other classes.
        ArtefactError: what is there cannot be read.
    """

    def __init__(self, path: Path, classes: list[str], *, topk: int = 1, resume: bool = False) -> None:
        check_out(path, resume)
        self.path, self.classes, self.topk = path, classes, topk
        self.kind = path.suffix.lower()
        self._rows = path.with_name(f"{path.name}.rows") if self.kind == ".parquet" else path
        self._columns = [*FIRST, *(f"p:{name}" for name in classes)]
        # eight bytes a path instead of the path: a table of a million rows is looked up in 8 MB
        keys = np.fromiter((_key(text) for text in self._written()), dtype=np.uint64)
        self._done = np.sort(keys)

    def __len__(self) -> int:
        """Rows that were there before."""
        return len(self._done)

    def has(self, path: Path) -> bool:
        """Whether the file had a row before."""
        key = np.uint64(_key(self._name(str(path))))
        index = int(np.searchsorted(self._done, key))
        return index < len(self._done) and bool(self._done[index] == key)

    @contextmanager
    def opened(self) -> Iterator[_Rows]:
        """Where rows are added; when left without error, the file is whole.

        Raises:
            ResourceError: it cannot be written.
        """
        try:
            with growing(self._rows) as file:
                rows = _Rows(self, file)
                if self.kind == ".csv" and not file.tell():
                    file.write(_csv_line([cell(name) for name in self._columns]))
                yield rows
            if self.kind == ".parquet":
                self._publish()
        except ResourceError as error:
            error.remedy = error.remedy.replace(resuming(), "--resume")
            raise

    def line(self, row: Prediction) -> bytes:
        """A row as it stands in the file that grows."""
        chances = row.probabilities or {}
        if self.kind == ".csv":
            first = [row.path, row.label, row.confidence, str(row.abstained).lower(), row.error]
            return _csv_line([cell(value) for value in [*first, *(chances.get(name) for name in self.classes)]])
        value: dict[str, Any] = {name: getattr(row, name) for name in FIRST}
        if self.kind == ".jsonl":
            value["top"] = [{"label": label, "confidence": confidence} for label, confidence in row.top(self.topk)]
        else:
            value |= {f"p:{name}": chances.get(name) for name in self.classes}
        return (to_json(value) + "\n").encode("utf-8", "backslashreplace")

    def _name(self, path: str) -> str:
        """A path as the file has it."""
        return path if self.kind == ".jsonl" else visible(path) if self.kind == ".parquet" else str(cell(path))

    def _written(self) -> Iterator[str]:
        """The paths of the rows that are there."""
        if self.kind == ".csv" and self.path.is_file():
            yield from self._written_csv()
        elif self._rows.is_file():
            yield from (self._name(value["path"]) for value in _lines(self._rows))
        if self.kind == ".parquet" and self.path.is_file():
            for batch in _parquet(self.path, self._columns).iter_batches(CHUNK, columns=["path"]):
                yield from batch.column(0).to_pylist()

    def _written_csv(self) -> Iterator[str]:
        with open(self.path, encoding="utf-8", newline="") as file:
            whole = (line for line in file if line.endswith("\n"))  # a kill may have cut the last one short
            rows = csv.reader(whole)
            heading = next(rows, None)
            if heading is not None and heading != [str(cell(name)) for name in self._columns]:
                raise _others(self.path)
            yield from (row[0] for row in rows if row)

    def _publish(self) -> None:
        """The rows as a Parquet file, together with those of one that was there."""
        import pyarrow as pa
        from pyarrow import parquet

        text, number = pa.string(), pa.float64()
        kinds = [text, text, number, pa.bool_(), text, *(number for _ in self.classes)]
        schema = pa.schema(list(zip(self._columns, kinds, strict=True)))
        before = _parquet(self.path, self._columns).iter_batches(CHUNK) if self.path.is_file() else ()

        def write(file: BinaryIO) -> None:
            lines = _lines(self._rows)
            with parquet.ParquetWriter(file, schema) as writer:
                for batch in before:
                    writer.write_batch(batch)
                while chunk := list(islice(lines, CHUNK)):
                    rows = [{**row, "path": visible(row["path"])} for row in chunk]
                    writer.write_table(pa.Table.from_pylist(rows, schema=schema))

        write_atomic(self.path, write)
        self._rows.unlink()


class _Rows:
    """Takes rows, and has them on their way to the disk before the next come."""

    def __init__(self, table: PredictionTable, file: BinaryIO) -> None:
        self._table, self._file = table, file

    def add(self, rows: Iterable[Prediction]) -> None:
        """Append them."""
        self._file.write(b"".join(self._table.line(row) for row in rows))
        self._file.flush()


def check_out(path: Path, resume: bool) -> None:
    """Refuse a file that cannot be meant, before anything is computed.

    Raises:
        UsageError: as for `PredictionTable`.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--out {path}: its name ends in none of {', '.join(FORMATS)}", "say by its name what it is")
    there = [file for file in (path, path.with_name(f"{path.name}.rows")) if file.exists()]
    if path.is_dir() or (there and not resume):
        raise UsageError(f"{there[0] if there else path} already exists", "add --resume, or name another with --out")


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _csv_line(values: list[Any]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue().encode("utf-8", "backslashreplace")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file of JSON lines, but for one that was cut short."""
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                return
            try:
                value = json.loads(line)
                _ = str(value["path"])
            except (ValueError, TypeError, KeyError) as error:
                raise ArtefactError(
                    f"{path}: line {number} is no prediction", "name another file with --out"
                ) from error
            yield value


def _parquet(path: Path, columns: list[str]) -> Any:
    from pyarrow import ArrowException, parquet

    try:
        file = parquet.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise ArtefactError(f"{path}: not readable as Parquet: {error}", "name another file with --out") from error
    if file.schema_arrow.names != columns:
        raise _others(path)
    return file


def _others(path: Path) -> UsageError:
    return UsageError(f"{path}: has columns of other classes", "name another file with --out")

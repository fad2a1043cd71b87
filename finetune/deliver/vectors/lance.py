"""Vectors in LanceDB: a database embedded in this process, with an approximate index for large tables."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from finetune.deliver.vectors.distance import METRIC, SPARE
from finetune.deliver.vectors.table import TABLE, Candidates, vectors_of
from finetune.deliver.vectors.where import COLUMNS, Condition
from finetune.errors import ArtefactError, ResourceError

INDEX_FROM = 20_000
"""Rows from which on an index pays; below, exact search takes some tenths of a second."""

PER_PARTITION = 2048
"""Vectors of a partition on average."""

PROBES = 96
"""Partitions that a query looks into."""

REFINE = 32
"""Candidates for each neighbour that are compared by their whole vectors, as the codes only tell roughly."""

_BROKEN = "delete the store and make it again with `finetune embed` or `ft.embed`"


class LanceTable:
    """See `finetune.deliver.vectors.table.Table`.

    Args:
        folder: of the database; made if absent.
        schema: of the rows.

    Raises:
        ResourceError: LanceDB is not installed.
        ArtefactError: a table that cannot be read.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.folder, self.schema = folder, schema
        os.environ.setdefault("LANCEDB_LOG", "error")  # its warnings speak of its insides
        try:
            import lancedb
        except ImportError as error:
            remedy = "pip install 'finetune-toolkit[search]'"
            raise ResourceError(f"{folder}: needs LanceDB, which is not installed", remedy) from error
        began = any((folder / f"{TABLE}.lance" / "_versions").glob("*.manifest"))
        with self._reading():
            database = lancedb.connect(folder)
            # a kill before the first manifest leaves files that belong to no table: they are written over
            make = partial(database.create_table, TABLE, schema=schema, mode="overwrite")
            self._table: Any = database.open_table(TABLE) if began else make()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """What LanceDB raises over its files, as an artefact's error."""
        try:
            yield
        except (ArtefactError, ResourceError):
            raise
        except (RuntimeError, OSError, ValueError) as error:
            problem = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ArtefactError(f"{self.folder}: cannot be read by LanceDB: {problem[:300]}", _BROKEN) from error

    def count(self) -> int:
        """How many rows there are."""
        with self._reading():
            return int(self._table.count_rows())

    def read(self, columns: Sequence[str], where: Sequence[Condition] = ()) -> Iterator[pa.RecordBatch]:
        """The rows that meet all conditions, some at a time."""
        with self._reading():
            query = self._table.search().select(list(columns))
            if where:
                query = query.where(_sql(where))
            yield from query.to_batches()

    def add(self, rows: pa.Table) -> None:
        """Add rows, whose paths are new."""
        with self._reading():
            self._table.add(rows)

    def replace(self, rows: pa.Table) -> None:
        """Put rows in the place of those with the same paths."""
        with self._reading():
            merge = self._table.merge_insert("path").when_matched_update_all().when_not_matched_insert_all()
            merge.execute(rows)

    def drop(self, paths: Sequence[str]) -> None:
        """Take out the rows of these paths."""
        with self._reading():
            for start in range(0, len(paths), 1000):
                named = ", ".join("'{}'".format(path.replace("'", "''")) for path in paths[start : start + 1000])
                self._table.delete(f"path IN ({named})")

    def candidates(self, queries: np.ndarray, k: int, where: Sequence[Condition] = ()) -> list[Candidates]:
        """For each query the `k` nearest rows and some more; through the index where there is one."""
        with self._reading():
            return [self._near(query, k + SPARE, where) for query in queries]

    def _near(self, query: np.ndarray, k: int, where: Sequence[Condition]) -> Candidates:
        search = self._table.search(query, vector_column_name="vector").distance_type(METRIC)
        search = search.select([*COLUMNS, "vector", "_distance"]).limit(k)
        search = search.nprobes(PROBES).refine_factor(REFINE)
        if where:
            search = search.where(_sql(where), prefilter=True)
        rows = search.to_arrow()
        return Candidates(rows.drop_columns(["vector", "_distance"]).to_pylist(), vectors_of(rows))

    def settle(self) -> None:
        """Join small pieces, drop old versions, and bring the index up to date."""
        with self._reading(), warnings.catch_warnings():
            # the store's lock keeps other writers away; a reader of an old version has to ask again
            warnings.filterwarnings("ignore", "optimize.cleanup_older_than=0")
            self._index()
            self._table.optimize(cleanup_older_than=timedelta(0))

    def _index(self) -> None:
        """Make the approximate index, where there is none and the table is large; `optimize` then keeps it up.

        One bit a dimension (RaBitQ, Gao and Long 2024) in partitions by k-means: of LanceDB's kinds by far the quickest
        to make (`benchmarks/vectors.py`), and the candidates are compared by their whole vectors anyway.
        """
        rows, width = self.count(), self.schema.field("vector").type.list_size
        if rows < INDEX_FROM or width % 8 or self._table.list_indices():
            return
        from lancedb.index import IvfRq

        partitions = max(1, rows // PER_PARTITION)
        self._table.create_index(
            "vector",
            config=IvfRq(distance_type="cosine", num_partitions=partitions, max_iterations=10, sample_rate=64),
        )


def _sql(where: Sequence[Condition]) -> str:
    return " AND ".join(condition.as_sql() for condition in where)

"""A store of vectors: a folder with a database, and the record of the network that made them.

`store.json` says which weights, preprocessing and layer the vectors come from. Whatever else is put in or asked is
refused: distances between vectors of two networks mean nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from finetune.deliver.vectors.distance import cosine_distance, nearest
from finetune.deliver.vectors.record import DATABASES, LOCK, Identity, locked, read_record, write_record
from finetune.deliver.vectors.table import Candidates, Table, schema_of
from finetune.deliver.vectors.where import Condition, parse, require_known
from finetune.errors import ArtefactError, ResourceError, UsageError
from finetune.files import visible


@dataclass(frozen=True)
class Neighbour:
    """An image of the store, and how far it lies from a query.

    Attributes:
        path: absolute.
        label: its class; None where it lay in no class folder.
        distance: cosine distance of the vectors, from 0 to 2.
        sha256: of the file.
        split, prediction, confidence: as they were when it was embedded; None where unknown.
    """

    path: str
    label: str | None
    distance: float
    sha256: str
    split: str | None = None
    prediction: str | None = None
    confidence: float | None = None


class VectorStore:
    """A store that is there.

    `len(store)` is the number of images; `store.search(vector, k=5)` finds the nearest.

    Args:
        path: its folder.

    Attributes:
        path: as given.
        identity: of the network that made the vectors.
        model: the run, bundle or backbone it came from, by which queries are embedded.
        database: lancedb or parquet.
        complete: the last `embed` came to its end.

    Raises:
        UsageError: there is nothing at `path`.
        ArtefactError: what is there is no store, is damaged, or is of a newer version.
        ResourceError: its database is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        record = read_record(self.path)
        self.identity = Identity(**record["made_by"])
        self.model: str = record["model"]
        self.database: str = record["database"]
        self.complete: bool = record["complete"]
        self.table = self._table()

    @classmethod
    def create(cls, path: str | Path, identity: Identity, model: str, database: str | None = None) -> VectorStore:
        """A new, empty store in a folder that is absent or empty.

        Args:
            path: the folder.
            identity: of the network.
            model: where to find it again.
            database: lancedb or parquet; None for LanceDB if it is installed.

        Raises:
            UsageError: no such database. ArtefactError: there is something else at `path`.
        """
        folder = Path(path)
        if folder.is_file() or (folder.is_dir() and any(p.name != LOCK for p in folder.iterdir())):
            what = "a file" if folder.is_file() else "a folder with other things in it"
            raise ArtefactError(f"{visible(str(path))}: no vector store, but {what}", "name a new folder")
        database = database or ("lancedb" if _has_lancedb() else "parquet")
        if database not in DATABASES:
            raise UsageError(f"database: {database}: unknown", f"choose {' or '.join(DATABASES)}")
        if database == "lancedb" and not _has_lancedb():
            raise ResourceError(f"{path}: LanceDB is not installed", "pip install 'finetune-toolkit[search]'")
        write_record(folder, identity, model, database, complete=False)
        return cls(folder)

    def __len__(self) -> int:
        return self.table.count()

    def __repr__(self) -> str:
        made = f"{self.identity.layer} of {self.identity.architecture}"
        return f"VectorStore({visible(str(self.path))!r}, {len(self)} vectors, {made}, {self.database})"

    def search(
        self, queries: np.ndarray, k: int = 10, where: str | Sequence[str | Condition] = ()
    ) -> list[list[Neighbour]]:
        """The nearest images of the store for each query, nearest first, equally near ones by path.

        Args:
            queries: float [Q, features], or one vector [features].
            k: how many; fewer come where there are fewer.
            where: conditions as in `--where`, such as ``class=ship``; all must hold.

        Raises:
            UsageError: an unknown column or value, a vector of another length.
        """
        conditions = self.conditions([where] if isinstance(where, str) else where)
        rows = np.atleast_2d(np.asarray(queries, dtype=np.float32))
        if rows.shape[1] != self.identity.features:
            problem = f"a query of {rows.shape[1]} numbers; the vectors have {self.identity.features}"
            raise UsageError(f"{self.path}: {problem}", "embed the query with the store's own network")
        if k < 1:
            raise UsageError(f"k: {k} is not 1 or more", "ask for at least one neighbour")
        if not len(rows):
            return []
        # the database may answer approximately, and in its own arithmetic: distances are computed again, exactly
        candidates = self.table.candidates(rows, k, conditions)
        return [
            [
                Neighbour(path=row["path"], label=row["class"], distance=float(distance), **_known(row))
                for row, distance in _exactly(query, one, k)
            ]
            for query, one in zip(rows, candidates, strict=True)
        ]

    def conditions(self, where: Sequence[str | Condition]) -> list[Condition]:
        """Conditions as people write them, checked against what the store has; ready ones as they are."""
        ready = [one for one in where if isinstance(one, Condition)]
        parsed = parse([one for one in where if isinstance(one, str)])
        columns = ["class", "split", "prediction"]
        if any(condition.column in columns for condition in parsed):
            schema = pa.schema([pa.field(name, pa.string()) for name in columns])
            require_known(parsed, pa.Table.from_batches(list(self.table.read(columns)), schema))
        return ready + parsed

    def vectors(self, where: str | Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
        """All rows with all columns, a bounded number at a time, as Arrow record batches.

        Args:
            where: conditions as in `search`.
        """
        conditions = self.conditions([where] if isinstance(where, str) else where)
        yield from self.table.read(schema_of(self.identity.features).names, conditions)

    def contents(self) -> dict[str, str]:
        """Path → sha256 of every image."""
        batches = self.table.read(["path", "sha256"])
        return {
            path: sha for b in batches for path, sha in zip(*(b[n].to_pylist() for n in b.schema.names), strict=True)
        }

    def require(self, identity: Identity, remedy: str) -> None:
        """Refuse vectors of another network.

        Raises:
            ArtefactError: which says what differs.
        """
        if differences := self.identity.differences(identity):
            problems = [f"{visible(str(self.path))}: its vectors were made by {line}" for line in differences]
            raise ArtefactError(problems, remedy)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Inside, no other process may write; the store counts as incomplete until this ends without error."""
        with locked(self.path):
            self._mark(False)  # until the end: a kill leaves a store that says that it lacks something
            self.table = self._table()
            yield
            self.table.settle()
            self._mark(True)

    def _mark(self, complete: bool) -> None:
        if self.complete != complete:
            write_record(self.path, self.identity, self.model, self.database, complete)
            self.complete = complete

    def _table(self) -> Table:
        schema = schema_of(self.identity.features)
        if self.database == "lancedb":
            from finetune.deliver.vectors.lance import LanceTable

            return LanceTable(self.path, schema)
        from finetune.deliver.vectors.parquet import ParquetTable

        return ParquetTable(self.path, schema)


def _known(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("sha256", "split", "prediction", "confidence")}


def _exactly(query: np.ndarray, candidates: Candidates, k: int) -> Iterator[tuple[dict[str, Any], float]]:
    """The `k` nearest of the candidates with their exact distances."""
    distances = cosine_distance(query, candidates.vectors)
    for place in nearest(distances, [row["path"] for row in candidates.rows], k):
        yield candidates.rows[place], distances[place]


def _has_lancedb() -> bool:
    from importlib.util import find_spec

    return find_spec("lancedb") is not None

"""The record of a store: which network made its vectors, and what database they are in."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune.deliver.vectors.distance import METRIC
from finetune.errors import ArtefactError, ResourceError, UsageError, called
from finetune.files import make_folder, read_json, visible, write_json

FORMAT = 1
"""Version of store.json; a reader refuses what is newer than itself."""

RECORD, LOCK = "store.json", ".lock"
DATABASES = ("lancedb", "parquet")


@dataclass(frozen=True)
class Identity:
    """The network and layer that made vectors; only vectors with equal identity can be compared.

    Attributes:
        weights_sha256: of the network; of a backbone without its head.
        architecture: ``timm/NAME``, ….
        options: what it was built with.
        preprocess: from a picture to the input, as JSON holds it.
        layer: the layer group that the vectors are the output of.
        features: length of a vector.
    """

    weights_sha256: str
    architecture: str
    options: dict[str, Any]
    preprocess: dict[str, Any]
    layer: str
    features: int

    def differences(self, other: Identity) -> list[str]:
        """Differences from another identity, one line each."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{key}: {_short(mine[key])}, not {_short(theirs[key])}" for key in mine if mine[key] != theirs[key]]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 100 else text[:97] + "…"


def write_record(folder: Path, identity: Identity, model: str, database: str, complete: bool) -> None:
    """Publish store.json."""
    about = {"format": FORMAT, "database": database, "metric": METRIC, "model": model}
    write_json(folder / RECORD, {**about, "made_by": asdict(identity), "complete": complete})


def read_record(folder: Path) -> dict[str, Any]:
    """The content of store.json, checked.

    Raises:
        UsageError: there is nothing at `folder`. ArtefactError: no store, a broken one, or one of a newer version.
    """
    name = visible(str(folder))
    if not folder.exists():
        raise UsageError(
            f"{name}: no such store",
            f"make it: {called(f'finetune embed RUN FOLDER --to {name}', f'ft.embed(run, folder, {name!r})')}",
        )
    where = folder / RECORD
    if not where.is_file():
        what = "no vector store: it has no store.json" if folder.is_dir() else "a file, not a vector store"
        raise ArtefactError(f"{name}: {what}", "name a store that `finetune embed` or `ft.embed` made")
    record = read_json(where)
    if not isinstance(record, dict) or not isinstance(record.get("format"), int):
        raise ArtefactError(f"{where}: not the record of a vector store", "make the store again with `finetune embed`")
    if record["format"] > FORMAT:
        problem = f"{where}: format {record['format']}; this version reads formats up to {FORMAT}"
        raise ArtefactError(problem, "install a newer version of finetune-toolkit")
    kinds = {"database": str, "model": str, "made_by": dict, "complete": bool}
    wrong = [key for key, kind in kinds.items() if not isinstance(record.get(key), kind)]
    made_by = record.get("made_by")
    fields = set(Identity.__dataclass_fields__)
    if not wrong and (set(made_by or {}) != fields or record["database"] not in DATABASES or not _sound(made_by)):
        wrong = ["made_by" if record["database"] in DATABASES else "database"]
    if wrong:
        raise ArtefactError([f"{where}: {key}: missing or wrong" for key in wrong], "make the store again")
    return record


def _sound(made_by: Any) -> bool:
    return isinstance(made_by["features"], int) and made_by["features"] > 0


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Held by one process that writes; gone with it, however it ends."""
    make_folder(folder)
    with open(folder / LOCK, "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            problem = f"{visible(str(folder))}: another process is writing to this store"
            raise ResourceError(problem, "wait until it has finished, then try again") from error
        yield

"""From a folder of images to a store of vectors: only what is new or has changed, in bounded memory.

Images are read, hashed and decoded ahead of the network; what the network makes of them is committed every few
seconds. A kill loses what was not committed, and nothing else: the next call finds the rest by its content.
"""

from __future__ import annotations

import csv
import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from finetune.data.decode import read
from finetune.data.listing import list_folder
from finetune.data.load import prepare
from finetune.data.preprocess import Preprocess
from finetune.deliver.vectors.source import Source, open_source
from finetune.deliver.vectors.store import RECORD, VectorStore
from finetune.deliver.vectors.table import schema_of, vector_column
from finetune.errors import BadImage, DataError, Stopped, UsageError
from finetune.evaluate.encode import Encoder, make_encoder
from finetune.evaluate.judge import BATCH, MANY
from finetune.evaluate.loop import infer
from finetune.evaluate.metrics import probabilities
from finetune.files import visible

AHEAD = 2
"""Batches decoded ahead of the network."""

SECONDS = 5.0
"""Between two commits: what a kill may lose."""

MOST = 8192
"""Vectors that are held in memory between two commits."""


@dataclass
class Embedded:
    """What `embed` did.

    Attributes:
        images: in the store now.
        new, changed, unchanged: images of the folder.
        removed: rows taken out, as their files are gone.
        gone: rows whose files are gone, left in.
        failed: (path, reason) of files that are no readable images.
        seconds: of computing.
    """

    images: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    gone: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def seen(self) -> int:
        """Files that were looked at."""
        return self.new + self.changed + self.unchanged + len(self.failed)


@dataclass(frozen=True)
class Listed:
    """An image file below the folder, with its class and split as far as folders tell them."""

    path: Path
    label: str | None
    split: str | None


@dataclass(frozen=True)
class _Read:
    """What came of a file: its hash, and its pixels if the store does not have them yet."""

    listed: Listed
    sha256: str = ""
    pixels: np.ndarray | None = None
    error: str = ""


def embed_folder(
    source: Source,
    folder: Path,
    store: VectorStore,
    encoder: Encoder,
    *,
    prune: bool = False,
    workers: int = 2,
    tick: Callable[[int, int], None] = lambda done, total: None,
    stop: Callable[[], int | None] = lambda: None,
) -> Embedded:
    """Bring a store up to date with a folder.

    Args:
        source: of the network.
        folder: with class folders, split or not, or with images alone.
        store: of this network.
        encoder: of the same.
        prune: take out the rows of files that are no longer in the folder.
        workers: threads that read and decode.
        tick: called as `tick(done, total)` on the way.
        stop: gives the number of the signal that asked to stop, or None.

    Raises:
        DataError: no such folder, or no readable image in it. ResourceError: disk full, another process writes.
        Stopped: asked to; what was computed is in the store.
    """
    files = list_images(folder)
    splits = _splits_of(source)
    done = Embedded()
    with store.writing():
        known = store.contents()
        started = time.perf_counter()
        reader = _read_all(files, known, encoder.network.preprocess, workers, done, tick, stop)
        for items, rows in _computed(reader, encoder):
            _commit(store, encoder, source, items, rows, known, splits)
        done.seconds = time.perf_counter() - started
        if (signum := stop()) is not None:
            remedy = "go on with the same command: what was computed is kept"
            raise Stopped(signum, f"stopped: {done.seen:,} of {len(files):,} images are done", remedy)
        _prune(store, folder, files, known, done, prune)
    done.images = len(store)
    if not done.images and done.failed:
        raise DataError([f"{visible(path)}: {reason}" for path, reason in done.failed], "give a folder of images")
    return done


def list_images(folder: Path) -> list[Listed]:
    """The images of a folder, sorted by path: those in class folders with their class, the others without.

    Raises:
        DataError: no such folder, or no image in it.
    """
    root = Path(os.path.abspath(folder.expanduser()))
    if not root.is_dir():
        what = "a file, not a folder of images" if root.exists() else "no such folder"
        raise DataError(f"{visible(str(folder))}: {what}", "give a folder with images in it")
    listing = list_folder(root)
    found = {path: Listed(root / path, *kind) for path, kind in listing.samples.items()}
    found |= {path: Listed(root / path, None, None) for path in listing.outside}
    if not found:
        raise DataError(f"{visible(str(folder))}: no images in this folder", "give a folder with images in it")
    return [found[path] for path in sorted(found)]


def _splits_of(source: Source) -> dict[str, str]:
    """sha256 → split of the images that the run was made of."""
    manifest = source.folder / "data.csv" if source.folder else None
    if manifest is None or not manifest.is_file():
        return {}
    with open(manifest, encoding="utf-8", newline="") as file:
        return {row["sha256"]: row["split"] for row in csv.DictReader(file)}


# --- reading ahead ---------------------------------------------------------------------------------------------------


def _read_all(
    files: list[Listed],
    known: Mapping[str, str],
    preprocess: Preprocess,
    workers: int,
    done: Embedded,
    tick: Callable[[int, int], None],
    stop: Callable[[], int | None],
) -> Generator[list[_Read], None, None]:
    """Batch after batch of what is to be computed; what is known or cannot be read is counted and left out."""
    pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="decode")
    waiting: deque[Future[_Read]] = deque()
    coming = iter(files)

    def more() -> None:
        waiting.extend(
            pool.submit(_read, one, known, preprocess) for one in islice(coming, (AHEAD + 1) * BATCH - len(waiting))
        )

    batch: list[_Read] = []
    try:
        more()
        while waiting and stop() is None:
            one = waiting.popleft().result()
            more()
            path = storable(one.listed.path)
            if one.error:
                done.failed.append((str(one.listed.path), one.error))
            elif one.pixels is None:
                done.unchanged += 1
            else:
                batch.append(one)
                done.changed += path in known
                done.new += path not in known
            if done.seen % BATCH == 0 or done.seen == len(files):
                tick(done.seen, len(files))
            if len(batch) == BATCH:
                yield batch
                batch = []
        if batch:
            yield batch
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read(listed: Listed, known: Mapping[str, str], preprocess: Preprocess) -> _Read:
    try:
        data = read(listed.path)
        sha256 = hashlib.sha256(data).hexdigest()
        if known.get(storable(listed.path)) == sha256:
            return _Read(listed, sha256)
        return _Read(listed, sha256, prepare(data, preprocess))
    except BadImage as error:
        return _Read(listed, error="; ".join(error.problems))


def storable(name: str | Path) -> str:
    """A path or class name as a database holds it: bytes of a name that are not UTF-8 as escapes."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


# --- computing and committing ----------------------------------------------------------------------------------------


def _computed(batches: Iterator[list[_Read]], encoder: Encoder) -> Iterator[tuple[list[_Read], np.ndarray]]:
    """A few seconds' worth of images at a time, with what the network makes of them."""
    while True:
        items: list[_Read] = []
        rows = infer(encoder.forward, _for_a_while(batches, items))
        if not items:
            return
        yield items, rows


def _for_a_while(batches: Iterator[list[_Read]], items: list[_Read]) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    end = time.monotonic() + SECONDS
    for batch in batches:
        first = len(items)
        items += batch
        pixels = np.stack([one.pixels for one in batch if one.pixels is not None])
        yield np.arange(first, len(items)), torch.from_numpy(pixels)
        if time.monotonic() > end or len(items) >= MOST:
            return


def _commit(
    store: VectorStore,
    encoder: Encoder,
    source: Source,
    items: list[_Read],
    rows: np.ndarray,
    known: Mapping[str, str],
    splits: Mapping[str, str],
) -> None:
    """Put rows into the store, at once and whole."""
    vectors, logits = encoder.parts(rows)
    network = encoder.network
    columns: dict[str, Any] = {
        "path": [storable(one.listed.path) for one in items],
        "class": [None if one.listed.label is None else storable(one.listed.label) for one in items],
        "split": [one.listed.split or splits.get(one.sha256) or None for one in items],
        "sha256": [one.sha256 for one in items],
        "prediction": [None] * len(items),
        "confidence": [None] * len(items),
        "vector": vector_column(vectors),
    }
    if source.trained:
        chances = probabilities(logits, network.loss)
        columns["prediction"] = [storable(network.classes[i]) for i in chances.argmax(axis=1)]
        columns["confidence"] = chances.max(axis=1).tolist()
    table = pa.table(columns, schema=schema_of(encoder.features))
    fresh = np.array([path not in known for path in columns["path"]], dtype=bool)
    if fresh.any():
        store.table.add(table.filter(pa.array(fresh)))
    if not fresh.all():
        store.table.replace(table.filter(pa.array(~fresh)))


def _prune(
    store: VectorStore, folder: Path, files: list[Listed], known: Mapping[str, str], done: Embedded, prune: bool
) -> None:
    """Count the rows below the folder whose files are gone; take them out if asked to."""
    below = storable(Path(os.path.abspath(folder.expanduser()))).rstrip(os.sep) + os.sep
    there = {storable(one.path) for one in files}
    gone = [path for path in known if path.startswith(below) and path not in there]
    if prune and gone:
        store.table.drop(gone)
        done.removed = len(gone)
    else:
        done.gone = len(gone)


def embed(
    model: str | Path,
    folder: str | Path,
    to: str | Path,
    *,
    layer: str | None = None,
    prune: bool = False,
    database: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    tick: Callable[[int, int], None] = lambda done, total: None,
    stop: Callable[[], int | None] = lambda: None,
) -> tuple[VectorStore, Embedded]:
    """Keep what a network makes of every image below a folder as a vector in a store.

    Args:
        model: a run folder, a model bundle, or the name of a backbone.
        folder: of images, with class folders or without.
        to: the store: a new folder, or one that this network's vectors are in already.
        layer: the layer group whose output is kept, averaged over space or tokens; None for what enters the head.
        prune: drop the rows of files that are no longer in the folder.
        database: of a new store: lancedb or parquet; None for LanceDB if it is installed.
        device: auto, cpu, cuda, cuda:N or mps.
        workers: threads that read and decode; None for one a core.
        tick: called as `tick(done, total)` on the way.
        stop: gives the number of the signal that asked to stop, or None.

    Returns:
        The store, and what was done.

    Raises:
        UsageError: no such network or layer group. DataError: no such folder, or no image in it.
        ArtefactError: the store holds the vectors of another network, is none, or is damaged.
        ResourceError: the database is not installed, the disk is full, another process writes to the store.
        Stopped: asked to; what was computed is in the store.
    """
    images, path = Path(folder), Path(to)
    files = list_images(images)
    store = VectorStore(path) if path.is_dir() and (path / RECORD).exists() else None
    source = open_source(str(model))
    encoder = make_encoder(source.network, source.compute(device), layer, fast=len(files) >= MANY)
    identity = source.identity(encoder)
    if store is None:
        store = VectorStore.create(path, identity, source.name, database)
    else:
        remedy = f"give another store with --to, or use the network and layer it was made with: {store.model}"
        store.require(identity, remedy)
        _require_database(store, database)
    cores = len(os.sched_getaffinity(0))
    with source.compute(device).own_threads():
        done = embed_folder(
            source, images, store, encoder, prune=prune, workers=workers or min(cores, 16), tick=tick, stop=stop
        )
    return store, done


def _require_database(store: VectorStore, database: str | None) -> None:
    if database not in (None, store.database):
        problem = f"--database: {database}: {visible(str(store.path))} is a {store.database} store"
        raise UsageError(problem, "leave out --database, or give another store with --to")

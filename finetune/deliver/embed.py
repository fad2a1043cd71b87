"""From a folder of images to a store of vectors: only what is new or has changed, in bounded memory.

Images are read, hashed and decoded ahead of the network; what the network makes of them is committed every few
seconds. A kill loses what was not committed, and nothing else: the next call finds the rest by its content.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from finetune.data.load import MOST_WORKERS
from finetune.deliver.vectors.images import Embedded, Listed, Read, list_images, read_all, storable
from finetune.deliver.vectors.record import RECORD
from finetune.deliver.vectors.source import Source, open_source
from finetune.deliver.vectors.store import VectorStore
from finetune.deliver.vectors.table import schema_of, vector_column
from finetune.device import cores
from finetune.errors import DataError, Stopped, UsageError
from finetune.evaluate.encode import Encoder, make_encoder
from finetune.evaluate.evaluation import MANY
from finetune.evaluate.loop import infer
from finetune.evaluate.metrics import probabilities
from finetune.files import visible
from finetune.runs.names import RunNames

SECONDS = 5.0
"""Between two commits: what a kill may lose."""

MOST = 8192
"""Vectors that are held in memory between two commits."""


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
        reader = read_all(files, known, encoder.network.preprocess, workers, done, tick, stop)
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


def _splits_of(source: Source) -> dict[str, str]:
    """sha256 → split of the images that the run was made of."""
    manifest = RunNames(source.folder).data_csv if source.folder else None
    if manifest is None or not manifest.is_file():
        return {}
    with open(manifest, encoding="utf-8", newline="") as file:
        return {row["sha256"]: row["split"] for row in csv.DictReader(file)}


# --- computing and committing ----------------------------------------------------------------------------------------


def _computed(batches: Iterator[list[Read]], encoder: Encoder) -> Iterator[tuple[list[Read], np.ndarray]]:
    """A few seconds' worth of images at a time, with what the network makes of them."""
    while True:
        items: list[Read] = []
        rows = infer(encoder.forward, _for_a_while(batches, items))
        if not items:
            return
        yield items, rows


def _for_a_while(batches: Iterator[list[Read]], items: list[Read]) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
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
    items: list[Read],
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
        chances = probabilities(logits, network.loss, network.temperature)
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
        remedy = f"give another store, or use the network and layer it was made with: {store.model}"
        store.require(identity, remedy)
        _require_database(store, database)
    with source.compute(device).own_threads():
        done = embed_folder(
            source,
            images,
            store,
            encoder,
            prune=prune,
            workers=workers or min(cores(), MOST_WORKERS),
            tick=tick,
            stop=stop,
        )
    return store, done


def _require_database(store: VectorStore, database: str | None) -> None:
    if database not in (None, store.database):
        problem = f"database: {database}: {visible(str(store.path))} is a {store.database} store"
        raise UsageError(problem, "leave out database, or give another store")

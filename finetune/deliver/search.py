"""Images out of a store of vectors: the nearest to each query, as data and as a page of thumbnails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from finetune.data.find import find_images
from finetune.data.load import prepare
from finetune.deliver.vectors.source import encoder_of
from finetune.deliver.vectors.store import Neighbour, VectorStore
from finetune.errors import BadImage, DataError, UsageError
from finetune.evaluate.encode import Encoder
from finetune.evaluate.evaluation import BATCH
from finetune.evaluate.loop import infer
from finetune.files import visible, write_text
from finetune.report.sheet import Cell, Row, sheet_html


@dataclass(frozen=True)
class Found:
    """A query and its neighbours, nearest first.

    Attributes:
        query: absolute path.
        neighbours: at most as many as asked for.
    """

    query: str
    neighbours: list[Neighbour]


def search_images(
    path: Path,
    images: Sequence[str | Path],
    *,
    k: int = 10,
    where: Sequence[str] = (),
    model: str | None = None,
    device: str = "auto",
) -> tuple[list[Found], list[str]]:
    """The nearest images of a store for each query.

    Args:
        path: of the store.
        images: files, folders, globs.
        k: how many neighbours.
        where: conditions; all must hold.
        model: where the store's network is now, if it has moved.
        device: auto, cpu, cuda, cuda:N or mps.

    Returns:
        The results in the order of the queries, and what is worth knowing, a line each.

    Raises:
        UsageError: no such store; an unknown column. DataError: a query that is no readable image.
        ArtefactError: no store, or its network is gone or another one.
    """
    store = VectorStore(path)
    store.conditions(where)  # a typo is told before anything is computed
    files = find_images(images)
    _, encoder = encoder_of(store, model, device)
    vectors = encode_files(encoder, files)
    results = store.search(vectors, k, where)
    found = [Found(str(file.absolute()), near) for file, near in zip(files, results, strict=True)]
    return found, _notes(store, found)


def encode_files(encoder: Encoder, files: Sequence[Path]) -> np.ndarray:
    """The vectors of image files, float32 [N, features].

    Raises:
        DataError: files that are no readable images, all of them.
    """
    pixels: list[np.ndarray] = []
    problems = []
    for file in files:
        try:
            pixels.append(prepare(file, encoder.network.preprocess))
        except BadImage as error:
            problems += [f"{visible(str(file))}: {problem}" for problem in error.problems]
    if problems:
        raise DataError(problems, "name readable image files")
    places = [np.arange(start, min(start + BATCH, len(pixels))) for start in range(0, len(pixels), BATCH)]
    rows = infer(encoder.forward, ((one, torch.from_numpy(np.stack([pixels[i] for i in one]))) for one in places))
    return encoder.parts(rows)[0]


def _notes(store: VectorStore, found: Sequence[Found]) -> list[str]:
    notes = []
    if not len(store):
        notes.append(f"{store.path}: the store is empty")
    elif not store.complete:
        notes.append(f"{store.path}: not all images are in it yet: `finetune embed` was stopped; run it again to go on")
    gone = sorted({one.path for result in found for one in result.neighbours if not Path(one.path).exists()})
    if gone:
        more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
        notes.append(f"no longer there: {', '.join(gone[:3])}{more}; `finetune embed … --prune` drops them")
    return notes


def check_page(page: Path, force: bool) -> None:
    """Refuse a place for the page before anything is computed.

    Raises:
        UsageError: it is there already and may not be replaced.
    """
    if page.is_dir() or (page.exists() and not force):
        raise UsageError(f"{page}: already exists", "choose another --html, or replace the file with --force")


def write_page(page: Path, store: Path, found: Sequence[Found], where: Sequence[str]) -> None:
    """Publish the results as a page of thumbnails that needs nothing besides itself.

    Raises:
        ResourceError: it cannot be written.
    """
    rows = [
        Row(
            Cell(Path(one.query), Path(one.query).name),
            [Cell(Path(near.path), near.label or "", f"{near.distance:.4f}") for near in one.neighbours],
        )
        for one in found
    ]
    condition = f", where {' and '.join(where)}" if where else ""
    write_text(page, sheet_html(f"Nearest images in {store}", f"By cosine distance{condition}.", rows))

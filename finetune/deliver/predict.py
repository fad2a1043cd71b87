"""Labels for image files, streamed: decoded ahead of the network, in bounded memory; a bad file is a row of its own."""

from __future__ import annotations

import glob
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.data.listing import is_hidden, is_image_name
from finetune.data.load import prepare
from finetune.device import Compute
from finetune.errors import BadImage, DataError
from finetune.evaluate.judge import BATCH, forward_of
from finetune.evaluate.loop import infer
from finetune.evaluate.metrics import probabilities
from finetune.model.network import Network

AHEAD = 2
"""Batches decoded ahead of the network."""


@dataclass(frozen=True)
class Prediction:
    """What the network takes an image for.

    Attributes:
        path: of the file.
        label: the most probable class; None where the file is no readable image.
        confidence: its probability.
        probabilities: of every class, by name.
        error: why there is no label.
    """

    path: str
    label: str | None = None
    confidence: float | None = None
    probabilities: dict[str, float] | None = None
    error: str | None = None

    def top(self, k: int) -> list[tuple[str, float]]:
        """The `k` most probable classes with their probabilities, the first of equals first."""
        return sorted((self.probabilities or {}).items(), key=lambda item: -item[1])[:k]


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """The files that `paths` name: files as they are, folders with the samples below them, globs.

    Raises:
        DataError: a path or glob that matches nothing (all of them are named).
    """
    found: list[Path] = []
    missing = []
    for name in paths:
        path = Path(name)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if _is_sample(p.relative_to(path)))
            if not inside:
                missing.append(f"{path}: no images in this folder")
            found += inside
        elif path.is_file() or path.is_symlink() or path.exists():
            found.append(path)
        elif glob.has_magic(str(name)) and (matches := sorted(glob.glob(str(name), recursive=True))):
            found += [Path(match) for match in matches if not Path(match).is_dir()]
        else:
            missing.append(f"{path}: no such file or folder")
    if missing:
        raise DataError(missing, "name image files, folders or globs that are there")
    return found


def _is_sample(path: Path) -> bool:
    """Whether a file below a folder is meant: not what a system left there, as the scan has it."""
    return is_image_name(path.name) and not any(is_hidden(part) for part in path.parts)


def predict(
    network: Network,
    sources: Collection[Path],
    compute: Compute,
    *,
    loss: str = "cross_entropy",
    workers: int = 2,
    batch: int = BATCH,
) -> Iterator[Prediction]:
    """One prediction for each file, in order.

    Args:
        network: whole, with its classes.
        sources: image files.
        compute: where; fp32 gives what `evaluate` gives.
        loss: what the network was trained with; decides how logits become probabilities.
        workers: decoding threads.
        batch: files per forward pass.
    """
    forward = forward_of(network, compute, len(sources))
    for paths, pixels in _decoded(network, iter(sources), workers, batch):
        good = [position for position, value in enumerate(pixels) if not isinstance(value, BadImage)]
        rows: dict[int, np.ndarray] = {}
        if good:
            stacked = torch.from_numpy(np.stack([pixels[position] for position in good]))
            logits = infer(forward, [(np.arange(len(good)), stacked)])
            rows = dict(zip(good, probabilities(logits, loss), strict=True))
        for position, path in enumerate(paths):
            yield _prediction(path, network.classes, rows.get(position), pixels[position])


def _decoded(
    network: Network, sources: Iterator[Path], workers: int, batch: int
) -> Iterator[tuple[list[Path], list[Any]]]:
    """Batches of paths with their pixels, uint8 [H, W, C], or the BadImage that came of them."""

    def one(path: Path) -> np.ndarray | BadImage:
        try:
            return prepare(path, network.preprocess)
        except BadImage as error:
            return error

    pending: deque[tuple[list[Path], list[Future[Any]]]] = deque()
    pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="decode")
    try:
        while paths := list(islice(sources, batch)):
            pending.append((paths, [pool.submit(one, path) for path in paths]))
            if len(pending) > AHEAD:
                ready, futures = pending.popleft()
                yield ready, [future.result() for future in futures]
        for ready, futures in pending:
            yield ready, [future.result() for future in futures]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _prediction(path: Path, classes: list[str], row: np.ndarray | None, pixels: object) -> Prediction:
    if row is None:
        assert isinstance(pixels, BadImage)
        return Prediction(str(path), error="; ".join(pixels.problems))
    best = int(row.argmax())
    chances = dict(zip(classes, row.tolist(), strict=True))
    return Prediction(str(path), classes[best], float(row[best]), chances)

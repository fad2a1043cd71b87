"""A network made ready once and asked many times: by a script, by `finetune predict`, by the server."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from finetune.data.load import MOST_WORKERS, prepare
from finetune.data.picture_input import Picture, as_source, name_of
from finetune.deliver.predict import Prediction, pictures_of
from finetune.device import Compute, choose, cores
from finetune.errors import BadImage, DataError
from finetune.evaluate.evaluation import BATCH, MANY, forward_of
from finetune.evaluate.loop import infer
from finetune.evaluate.metrics import probabilities
from finetune.model.network import Network

if TYPE_CHECKING:  # what most predictions need no database for
    from finetune.deliver.vectors.knn import NeighbourVote
    from finetune.deliver.vectors.store import Neighbour

AHEAD = 2
"""Batches decoded ahead of the network."""


class Predictor:
    """Labels for pictures, by the weights that the network has when this is made; safe to share between threads.

    Decoding runs in the threads of the callers. The network itself runs for one of them at a time, and then uses every
    core; so 32 pictures in one call are much faster than in 32 calls.

    Args:
        network: with its classes.
        compute: where; by default the best device there is, in fp32, which gives what `evaluate` gives.
        threshold: a confidence; below it a prediction abstains, its label is None.
        images: about how many pictures will come; below 200 the network is not traced first to make it faster.
        near: tells the nearest images of a store along with each prediction.
        vote: gives probabilities in the place of the network's head: by the neighbours in a store of vectors.

    Raises:
        ResourceError: the device is not there.
    """

    def __init__(
        self,
        network: Network,
        compute: Compute | None = None,
        *,
        threshold: float | None = None,
        images: int = MANY,
        vote: NeighbourVote | None = None,
        near: NeighbourVote | None = None,
    ) -> None:
        self.network = network
        self.threshold = threshold
        self.compute = compute or choose(precision="fp32", convolutional=network.convolutional, light=network.light)
        self._vote, self._near = vote, near
        self._forward = forward_of(network, self.compute, images)
        self._one_at_a_time = threading.Lock()

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the probabilities."""
        return self.network.classes if self._vote is None else self._vote.classes

    def predict(self, source: Picture | Iterable[Picture]) -> Prediction | list[Prediction]:
        """The prediction for one picture, or a list of them for several.

        Args:
            source: a path, bytes, an open binary file, a PIL image, an array [H, W] or [H, W, C] or tensor [C, H, W]
                of uint8 or of floats in [0, 1]; or several of these in a list, a folder, or a glob. The answer is that
                of the file.

        Raises:
            DataError: a path that is not there; or the one picture cannot be read (of several, that is the `error` of
                its prediction).
            UsageError: something that is no picture.
        """
        pictures = pictures_of(source)
        if isinstance(pictures, list):
            return list(self.stream(pictures))
        predictions = next(self.stream([pictures]))
        if predictions.error is not None:
            raise DataError(f"{predictions.path or 'the picture'}: {predictions.error}", "give a readable image")
        return predictions

    def stream(
        self, sources: Iterable[Picture], *, workers: int | None = None, batch: int = BATCH
    ) -> Iterator[Prediction]:
        """One prediction for each picture, in order, in bounded memory: decoded ahead of the network, in threads.

        Args:
            sources: as for `predict`; read a few batches ahead.
            workers: decoding threads; None for one a core, at most 16.
            batch: pictures per forward pass.
        """
        threads = max(1, min(cores(), MOST_WORKERS) if workers is None else workers)
        for names, pixels in self._decoded(iter(sources), threads, batch):
            yield from self.answers(names, pixels)

    def prepare(self, picture: Picture) -> np.ndarray | BadImage:
        """The picture as the network sees it, uint8 [H, W, C], or why there is none."""
        try:
            return prepare(as_source(picture), self.network.preprocess)
        except BadImage as error:
            return error

    def answers(self, names: Sequence[str], pixels: Sequence[np.ndarray | BadImage]) -> list[Prediction]:
        """The predictions for what `prepare` gave, in one forward pass."""
        good = [index for index, value in enumerate(pixels) if not isinstance(value, BadImage)]
        rows: dict[int, np.ndarray] = {}
        near: dict[int, list[Neighbour]] = {}
        if good:
            batch = np.stack([np.asarray(pixels[index]) for index in good])
            rows = dict(zip(good, self.probabilities(batch), strict=True))
            if self._near is not None:
                with self._one_at_a_time, self.compute.own_threads():
                    near = dict(zip(good, self._near.near(batch), strict=True))
        return [
            self._answer(name, rows.get(index), pixels[index], near.get(index, ())) for index, name in enumerate(names)
        ]

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Class probabilities, float64 [N, classes], for pixels uint8 [N, H, W, C]."""
        # two passes at once would share the cores and both take twice as long; callers decode meanwhile
        with self._one_at_a_time, self.compute.own_threads():
            if self._vote is not None:
                return self._vote(pixels)
            logits = infer(self._forward, [(np.arange(len(pixels)), torch.from_numpy(pixels))])
        return probabilities(logits, self.network.loss, self.network.temperature)

    def _answer(
        self, name: str, row: np.ndarray | None, pixels: np.ndarray | BadImage, near: Sequence[Neighbour]
    ) -> Prediction:
        if isinstance(pixels, BadImage):
            return Prediction(name, error="; ".join(pixels.problems))
        if row is None or not np.isfinite(row).all():
            return Prediction(name, error="the network's answer is not finite")
        best = int(row.argmax())
        confidence = float(row[best])
        abstained = self.threshold is not None and confidence < self.threshold
        chances = dict(zip(self.classes, row.tolist(), strict=True))
        label = None if abstained else self.classes[best]
        return Prediction(name, label, confidence, chances, abstained=abstained, neighbours=tuple(near))

    def _decoded(
        self, sources: Iterator[Picture], workers: int, batch: int
    ) -> Iterator[tuple[list[str], list[np.ndarray | BadImage]]]:
        """Batches of names and of pixels prepared from them."""
        pending: deque[tuple[list[str], list[Future[Any]]]] = deque()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        try:
            while pictures := list(islice(sources, batch)):
                pending.append(
                    ([name_of(picture) for picture in pictures], [pool.submit(self.prepare, p) for p in pictures])
                )
                if len(pending) > AHEAD:
                    names, futures = pending.popleft()
                    yield names, [future.result() for future in futures]
            for names, futures in pending:
                yield names, [future.result() for future in futures]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

"""Batches of pixels: decoded and resized in threads ahead of the network, in the order asked for."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image

from finetune.data.augment import Augment
from finetune.data.decode import decode, read, size
from finetune.data.preprocess import Preprocess
from finetune.device import cores
from finetune.errors import BadImage, DataError, resuming
from finetune.files import visible

if TYPE_CHECKING:  # predicting and serving come through here without ever scanning a folder
    from finetune.data.dataset import ImageSet

STREAM = 2
"""Sets the random numbers of the order apart from those of other uses of the same seed."""

AHEAD = 2
"""Batches decoded ahead of the consumer: one being made, one waiting; more would only cost memory."""

MOST_WORKERS = 16
"""Threads at most: beyond, the interpreter lock that Pillow takes between its C calls eats what they bring."""


def order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order in which an epoch sees `n` images: the one function from a seed to an order.

    Sorts raw bits of Philox, whose stream numpy keeps between versions (NEP 19); `Generator.permutation` it may change.

    Returns:
        int64 [n], a permutation.
    """
    key = np.random.SeedSequence(seed, spawn_key=(STREAM, epoch))
    return np.argsort(np.random.Philox(key).random_raw(n), kind="stable").astype(np.int64)


def prepare(
    source: Path | bytes | Image.Image,
    preprocess: Preprocess,
    augment: Augment | None = None,
    seed: int = 0,
    view: int = 0,
    sha256: str = "0",
) -> np.ndarray:
    """One image as the network sees it; training, evaluating, predicting and serving all come through here.

    How far a large JPEG is reduced while it is decoded depends on its own size, `preprocess` and `augment` alone, so
    the pixels do too.

    Returns:
        uint8 [H, W, C].

    Raises:
        BadImage: it cannot be decoded.
    """
    return _view(_picture(source, preprocess, augment), preprocess, augment, seed, view, sha256)


def _picture(source: Path | bytes | Image.Image, preprocess: Preprocess, augment: Augment | None) -> Image.Image:
    """The decoded picture, no smaller than its views need."""
    random = augment is not None and augment.random
    draft = augment.draft(preprocess) if augment and random else preprocess.draft
    return decode(source, preprocess.mode, draft, preprocess.decoding)


def _view(
    image: Image.Image, preprocess: Preprocess, augment: Augment | None, seed: int, view: int, sha256: str
) -> np.ndarray:
    if augment is None or not augment.random:
        return preprocess.evaluate(image)
    return augment.view(image, preprocess, seed, view, sha256)


class _Pending(NamedTuple):
    """A batch on its way: the array that the threads fill, and what they have left to do."""

    indices: np.ndarray
    pixels: np.ndarray
    futures: list[Future[None]]


class Images:
    """The images of a set as batches of pixels. Nothing that comes out depends on the number of workers.

    Args:
        image_set: the images, as the scan found them.
        preprocess: what the network takes.
        workers: decoding threads; None for one a core that this process may use. Zero counts as one.
        keep: bytes of decoded pictures that may stay in memory, so that the next epoch need not decode them again.
    """

    def __init__(self, image_set: ImageSet, preprocess: Preprocess, workers: int | None = None, keep: int = 0) -> None:
        self.preprocess = preprocess
        self.workers = max(1, min(cores(), MOST_WORKERS) if workers is None else workers)
        self._image_set = image_set
        self._paths = image_set.paths
        self._hashes = image_set.hashes
        self._bytes: list[int] = image_set.table["bytes"].tolist()
        self._room = keep
        self._kept: dict[tuple[int, bool], Image.Image | np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def release_pictures(self) -> None:
        """Let go of the decoded pictures, and keep no more."""
        self._room = 0
        self._kept.clear()

    def require_unchanged(self) -> None:
        """Look whether each image is still there and as long as it was, without reading it.

        Raises:
            DataError: an image that is gone or has changed since the scan.
        """
        for index, path in enumerate(self._paths):
            with self._as_scanned(index):
                self._require_length(index, size(path))

    def decoded_pixels(self, augment: Augment | None = None) -> torch.Tensor | None:
        """None: files are not decoded before they are asked for."""
        return None

    @property
    def hashes(self) -> list[str]:
        """The sha256 of each image file."""
        return self._hashes

    @property
    def labels(self) -> np.ndarray:
        """Position of each image's class in the classes of the set, int64 [N]."""
        return self._image_set.labels

    @property
    def units(self) -> list[str]:
        """For each image the unit that no fold may divide."""
        return self._image_set.units

    @property
    def names(self) -> list[str]:
        """The images' paths relative to the data folder."""
        return list(self._image_set.table["path"])

    def pixels(
        self, indices: Sequence[int] | np.ndarray, augment: Augment | None = None, seed: int = 0, view: int = 0
    ) -> torch.Tensor:
        """The images `indices`, in that order, as one batch.

        Returns:
            uint8 [B, H, W, C].

        Raises:
            DataError: an image that is gone or has changed since the scan.
        """
        with contextlib.closing(self.batches([indices], augment, seed, view)) as batches:
            return next(batches)[1]

    def batches(
        self,
        index_batches: Iterable[Sequence[int] | np.ndarray],
        augment: Augment | None = None,
        seed: int = 0,
        view: int = 0,
    ) -> Generator[tuple[np.ndarray, torch.Tensor], None, None]:
        """Batch after batch, each decoded while the consumer works on the one before.

        Closing the generator drops what is not begun, waits for the few images in hand and leaves no thread.

        Args:
            index_batches: the indices of each batch; read at most `AHEAD` + 1 batches ahead.
            augment: None for the pictures as they are evaluated.
            seed: of the augmentation.
            view: of the augmentation.

        Yields:
            indices int64 [B] and pixels uint8 [B, H, W, C], in the order given.

        Raises:
            DataError: an image that is gone or has changed since the scan, when its batch is due.
        """
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        pending: deque[_Pending] = deque()
        try:
            for indices in index_batches:
                pending.append(self._begin(pool, np.asarray(indices, dtype=np.int64), augment, seed, view))
                if len(pending) > AHEAD:
                    yield _finish(pending.popleft())
            while pending:
                yield _finish(pending.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _begin(
        self, pool: ThreadPoolExecutor, indices: np.ndarray, augment: Augment | None, seed: int, view: int
    ) -> _Pending:
        batch = np.empty((len(indices), *self.preprocess.size, self.preprocess.channels), dtype=np.uint8)

        def fill(row: int, index: int) -> None:
            batch[row] = self._read(index, augment, seed, view)

        return _Pending(indices, batch, [pool.submit(fill, row, index) for row, index in enumerate(indices.tolist())])

    def _keep(self, key: tuple[int, bool], picture: Image.Image | np.ndarray) -> None:
        if isinstance(picture, np.ndarray):
            size = picture.nbytes
        else:
            size = picture.width * picture.height * (4 if picture.mode == "RGB" else 1)  # Pillow pads RGB to four bytes
        if size <= self._room:  # two threads may both find room: the budget is exceeded by a picture at most
            self._room -= size
            self._kept[key] = picture

    def _read(self, index: int, augment: Augment | None, seed: int, view: int) -> np.ndarray:
        """One view, uint8 [H, W, C]. Of what is seen in many views the picture is kept, else the view itself."""
        path, random = self._paths[index], augment is not None and augment.random
        with self._as_scanned(index):
            picture = self._kept.get((index, random))
            if picture is None:
                data = read(path)
                self._require_length(index, len(data))
                picture = _picture(data, self.preprocess, augment)
                picture = picture if random else self.preprocess.evaluate(picture)
                self._keep((index, random), picture)
            if isinstance(picture, np.ndarray):
                return picture
            return _view(picture, self.preprocess, augment, seed, view, self._hashes[index])

    def _require_length(self, index: int, length: int) -> None:
        if length != self._bytes[index]:
            raise BadImage(f"{length:,} bytes, but {self._bytes[index]:,} when the folder was scanned")

    @contextlib.contextmanager
    def _as_scanned(self, index: int) -> Iterator[None]:
        """Turns a bad image inside into DataError: the scan found it sound, so it has changed since."""
        try:
            yield
        except BadImage as error:
            name = visible(str(self._paths[index]))
            remedy = f"put the file back as it was and go on with {resuming()}, or start a new run without it"
            raise DataError(f"{name}: changed since the folder was scanned: {error.problems[0]}", remedy) from error


def _finish(pending: _Pending) -> tuple[np.ndarray, torch.Tensor]:
    """Wait for a batch; the first of its images that failed, in the order of the batch, is the one that is named."""
    for future in pending.futures:
        future.result()
    return pending.indices, torch.from_numpy(pending.pixels)

"""The images of a folder, read, hashed and decoded ahead of the network; what a store has already is not decoded."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from finetune.data.decode import read
from finetune.data.listing import list_folder
from finetune.data.load import prepare
from finetune.data.preprocess import Preprocess
from finetune.errors import BadImage, DataError
from finetune.evaluate.evaluation import BATCH
from finetune.files import visible

AHEAD = 2
"""Batches decoded ahead of the network."""


@dataclass
class Embedded:
    """Counts of what `embed` did.

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
class Read:
    """A file that was read: its hash, and its pixels if the store does not have them yet."""

    listed: Listed
    sha256: str = ""
    pixels: np.ndarray | None = None
    error: str = ""


def list_images(folder: Path) -> list[Listed]:
    """The images of a folder, sorted by path: those in class folders with their class, the others without.

    Raises:
        DataError: no such folder, or no image in it.
    """
    root = Path(os.path.abspath(folder.expanduser()))
    if not root.is_dir():
        what = "a file, not a folder of images" if root.exists() else "no such folder"
        raise DataError(f"{visible(str(folder))}: {what}", "give a folder with images in it")
    listing = list_folder(root, strict=False)
    listed = {path: Listed(root / path, *kind) for path, kind in listing.samples.items()}
    listed |= {path: Listed(root / path, None, None) for path in listing.outside}
    if not listed:
        raise DataError(f"{visible(str(folder))}: no images in this folder", "give a folder with images in it")
    return [listed[path] for path in sorted(listed)]


def read_all(
    files: list[Listed],
    known: Mapping[str, str],
    preprocess: Preprocess,
    workers: int,
    done: Embedded,
    tick: Callable[[int, int], None],
    stop: Callable[[], int | None],
) -> Generator[list[Read], None, None]:
    """Batch after batch of what is to be computed; what is known or cannot be read is counted and left out."""
    pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="decode")
    waiting: deque[Future[Read]] = deque()
    coming = iter(files)

    def more() -> None:
        waiting.extend(
            pool.submit(_read, one, known, preprocess) for one in islice(coming, (AHEAD + 1) * BATCH - len(waiting))
        )

    batch: list[Read] = []
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


def _read(listed: Listed, known: Mapping[str, str], preprocess: Preprocess) -> Read:
    try:
        data = read(listed.path)
        sha256 = hashlib.sha256(data).hexdigest()
        if known.get(storable(listed.path)) == sha256:
            return Read(listed, sha256)
        return Read(listed, sha256, prepare(data, preprocess))
    except BadImage as error:
        return Read(listed, error="; ".join(error.problems))


def storable(name: str | Path) -> str:
    """A path or class name as a database holds it: bytes of a name that are not UTF-8 as escapes."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

"""MNIST: 70,000 handwritten digits of 28x28 grey pixels, read into memory, fetched where they are absent.

LeCun, Cortes and Burges, "The MNIST database of handwritten digits", 1998.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import queue
import threading
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from finetune.data.dataset import Dataset, ImageSet
from finetune.data.scan import COLUMNS
from finetune.data.split import split
from finetune.data.wanted import Wanted
from finetune.errors import DataError, ResourceError, did_you_mean, setting
from finetune.files import cache_folder, visible, write_atomic

CLASSES = [str(digit) for digit in range(10)]
PARTS = ("train", "test")
SECONDS = 12
"""For a mirror to answer, name look-up included; there are two of them."""


def read_mnist(root: Path | None, classes: Sequence[str] | None = None, *, val: float = 0.05, seed: int = 0) -> Dataset:
    """MNIST with its official test images as `test`, and its training images divided into train and val.

    Args:
        root: the folder that holds `MNIST/raw` with the four IDX files; None for the cache folder. Where files are
            absent they are fetched into it.
        classes: only these digits, in this order; None for all ten.
        val: share of the 60,000 for validation, stratified, by content.
        seed: of that split.

    Raises:
        ResourceError: absent, and not to be had over the network.
        DataError: files that are damaged, or a class that is no digit.
    """
    root = find(root)
    pixels, table = load(root)
    names = list(classes) if classes is not None else CLASSES
    if unknown := [name for name in names if name not in CLASSES]:
        near = did_you_mean(unknown[0], CLASSES)
        raise DataError(f"data.classes: {visible(unknown[0])!r}: MNIST has no such class{near}", "they are 0 to 9")
    table, pixels = _only(table, pixels, table["class"].isin(names).to_numpy())
    learning = table["split"] == "train"
    table.loc[learning, "split"] = split(table[learning], val, 0.0, seed)
    return Dataset(root, table, names, pixels=pixels)


def read(folder: Path | None, wanted: Wanted, tick: Callable[[int, int], None] | None, workers: int | None) -> Dataset:
    """`read_mnist` as a source of recipes; its test images are its own, `wanted.test` is not used."""
    return read_mnist(folder, wanted.classes, val=wanted.val, seed=wanted.seed)


def class_names(folder: Path | None, wanted: Wanted, sample: str | None) -> list[str]:
    """The ten digits."""
    return list(CLASSES)


def outline(folder: Path | None, wanted: Wanted) -> Dataset | None:
    """None: the files hold no names."""
    return None


def reopen(root: Path, table: pd.DataFrame, classes: Sequence[str]) -> ImageSet:
    """The images that `table`, rows of a run's data.csv, names.

    Raises:
        DataError: images that are gone or have changed since.
        ResourceError: see `read_mnist`.
    """
    pixels, names = load(find(root))
    row_of = {name: row for row, name in enumerate(names["path"])}
    rows = [row_of.get(name, -1) for name in table["path"]]
    changed = [
        name
        for name, sha256, row in zip(table["path"], table["sha256"], rows, strict=True)
        if row < 0 or names["sha256"][row] != sha256
    ]
    if changed:
        raise DataError(
            f"{root}: {changed[0]} is not the image that the run saw ({len(changed):,} such)", "put it back"
        )
    return ImageSet(root, table, classes, pixels[rows])


def find(root: Path | None) -> Path:
    """The folder that holds `MNIST/raw`, whole; what is absent is fetched into it. `MNIST` itself may be named, too.

    Raises:
        ResourceError: it cannot be fetched.
    """
    root = (root or cache_folder()).expanduser().absolute()
    root = root.parent if root.name == "MNIST" and (root / "raw").is_dir() else root
    raw = root / "MNIST" / "raw"
    if missing := [name for name in _names() if not (raw / name.removesuffix(".gz")).is_file()]:
        for name in missing:
            write_atomic(raw / name.removesuffix(".gz"), _fetch(name, raw))
    return root


def load(root: Path) -> tuple[np.ndarray, pd.DataFrame]:
    """Pixels, uint8 [N, H, W], and one row each of the columns of `Scan.table`: train/00000…, then test/00000….

    Raises:
        DataError: files that are damaged.
    """
    parts = [_read(root, part) for part in PARTS]
    tables = []
    for part, (images, labels) in zip(PARTS, parts, strict=True):
        count, height, width = images.shape
        columns = {
            "path": [f"{part}/{number:05d}" for number in range(count)],
            "class": [CLASSES[label] for label in labels.tolist()],
            "split": part,
            "sha256": [hashlib.sha256(image.tobytes()).hexdigest() for image in images],
            "bytes": height * width,
            "width": width,
            "height": height,
            "mode": "L",
        }
        tables.append(pd.DataFrame(columns, columns=list(COLUMNS)).astype({"split": object, "mode": object}))
    return np.concatenate([images for images, _ in parts]), pd.concat(tables, ignore_index=True)


def _read(root: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    from torchvision.datasets import MNIST  # takes seconds to import

    raw = visible(str(root / "MNIST" / "raw"))
    remedy = "delete the file, so that it is fetched anew, or put a whole one there"
    try:
        mnist = MNIST(str(root), train=part == "train")
        images, labels = mnist.data.numpy(), mnist.targets.numpy()
    except (ValueError, RuntimeError, AssertionError, IndexError, KeyError, EOFError) as error:
        reason = visible(str(error) or type(error).__name__)
        raise DataError(f"{raw}: the {part} files are damaged: {reason[:200]}", remedy) from error
    if images.ndim != 3 or len(images) != len(labels) or not len(images) or not set(labels.tolist()) <= set(range(10)):
        raise DataError(f"{raw}: the {part} files are no pictures with a label from 0 to 9 each", remedy)
    return images, labels


def _only(table: pd.DataFrame, pixels: np.ndarray, rows: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
    return (table, pixels) if rows.all() else (table[rows].reset_index(drop=True), pixels[rows])


# --- over the network ------------------------------------------------------------------------------------------------


def _names() -> list[str]:
    """The four files, as the mirrors have them."""
    kinds = ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz")
    return [f"{part}-{kind}" for part in ("train", "t10k") for kind in kinds]


def _fetch(name: str, raw: Path) -> bytes:
    """One file, unpacked, from the first of torchvision's mirrors that gives it with the checksum that it knows."""
    from torchvision.datasets import MNIST

    reasons = []
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    for mirror in [] if offline else MNIST.mirrors:
        try:
            packed = _get(f"{mirror}{name}")
            if hashlib.md5(packed, usedforsecurity=False).hexdigest() == dict(MNIST.resources)[name]:
                return gzip.decompress(packed)
            reasons.append(f"{mirror}: what arrived is another file")
        except (OSError, http.client.HTTPException, queue.Empty) as error:
            reasons.append(f"{mirror}: {getattr(error, 'reason', error) or f'no answer in {SECONDS} s'}")
    raise ResourceError(
        f"data.folder: {visible(str(raw / name.removesuffix('.gz')))}: not there, and MNIST cannot be fetched: "
        f"{visible('; '.join(reasons)) or 'HF_HUB_OFFLINE is set'}",
        f"name the folder that holds MNIST/raw ({setting('data.folder', 'ROOT')}), or fetch it once on a machine with "
        "network and copy its cache folder",
    )


def _get(url: str) -> bytes:
    """The content at an address. The connection is made in a thread: a name look-up has no time limit of its own."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(url, timeout=SECONDS))
        except Exception as error:  # handed over to the caller, who tells network errors from others
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    answer = answers.get(timeout=SECONDS)
    if isinstance(answer, Exception):
        raise answer
    with answer:
        content: bytes = answer.read()
    return content

"""Where the images come from: a folder, or MNIST. The one place that tells them apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from finetune.data import mnist
from finetune.data.folder import Dataset, ImageFolder, ImageSet, one_against_rest
from finetune.data.listing import list_folder
from finetune.data.samples.catalogue import CLASSES
from finetune.data.scan import COLUMNS
from finetune.data.split import split
from finetune.errors import DataError


def read_source(
    source: str,
    folder: Path | None,
    *,
    classes: Sequence[str] | None = None,
    positive: str | None = None,
    val: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    on_bad: Literal["stop", "skip"] = "stop",
    tick: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> Dataset:
    """The images of a source with their split.

    Args:
        source: folder or mnist.
        folder: of the images; of mnist, what holds MNIST/raw, None for the cache folder.
        classes: only these, in this order.
        positive: a class: it against the rest.
        val: fraction for choosing the best epoch.
        test: fraction for judging; mnist has its own images for that.
        seed: of the split.
        on_bad: what to do about unreadable images.
        tick: called as `tick(done, total)` while images are read.
        workers: threads that read.

    Raises:
        DataError: images that are not usable. ResourceError: MNIST that is absent and cannot be fetched.
    """
    if source == "mnist":
        data = mnist.read_mnist(folder, classes, val=val, seed=seed)
    else:
        assert folder is not None
        data = ImageFolder(folder, classes, on_bad, tick, workers).split(val, test, seed)
    return data if positive is None else data.against_rest(positive)


def class_names(
    source: str, folder: Path | None, classes: Sequence[str] | None, positive: str | None, sample: str | None
) -> list[str]:
    """The classes of a source in the order of the network's outputs, without reading an image.

    Args:
        source, folder, classes, positive: as for `read_source`.
        sample: the built-in sample that will be written where there is no folder.

    Raises:
        DataError: no such folder, or no such class.
    """
    found = list(classes) if classes is not None else _all_classes(source, folder, sample)
    return found if positive is None else one_against_rest(positive, found)


def _all_classes(source: str, folder: Path | None, sample: str | None) -> list[str]:
    if source == "mnist":
        return list(mnist.CLASSES)
    if sample is not None and folder is not None and not folder.exists():
        return list(CLASSES[sample])
    if folder is None or not folder.is_dir():
        raise DataError(f"data.folder: {folder}: no such folder", "give one with a folder of images per class")
    listing = list_folder(folder, None)
    return sorted(listing.folders["train" if listing.split_layout else ""])


def outline(
    source: str,
    folder: Path | None,
    *,
    classes: Sequence[str] | None = None,
    positive: str | None = None,
    val: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
) -> Dataset | None:
    """The images of a source by their names alone, split as many to many as they will be; no image is opened.

    Args:
        source, folder, classes, positive, val, test, seed: as for `read_source`.

    Returns:
        Images to be counted, not to be read; None where there are none yet, or none that could be split.
    """
    if source == "mnist":
        return None  # its files hold no names
    if folder is None or not folder.is_dir():
        return None
    listing = list_folder(folder, classes)
    rows = [(path, name, part, path, 0, 0, 0, "") for path, (name, part) in sorted(listing.samples.items())]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    names = list(classes) if classes is not None else sorted(listing.folders["train" if listing.split_layout else ""])
    if not listing.split_layout:
        try:
            table["split"] = split(table, val, test, seed)
        except DataError:
            return None
    data = Dataset(folder, table, names)
    if not (len(data.train) and len(data.val)):
        return None
    return data if positive is None else data.against_rest(positive)


def reopen(source: str, root: Path, table: pd.DataFrame, classes: Sequence[str]) -> ImageSet:
    """The images of a run again.

    Args:
        source: folder or mnist.
        root: of the images.
        table: rows of the run's data.csv.
        classes: the class names.

    Raises:
        DataError, ResourceError: they are not there any more.
    """
    return mnist.pick(root, table, classes) if source == "mnist" else ImageSet(root, table, classes)

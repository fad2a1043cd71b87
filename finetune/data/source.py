"""Where images come from: one small protocol, and the functions that put `data.positive` on top of it.

A source is a module with the four functions of `Source`; a new one (a CSV list, tar shards) is one line in `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import pandas as pd

from finetune.data import folder as image_folder
from finetune.data import mnist
from finetune.data.dataset import Dataset, ImageSet, one_against_rest
from finetune.data.wanted import Wanted

Tick = Callable[[int, int], None]


class Source(Protocol):
    """A source of images."""

    def read(self, folder: Path | None, wanted: Wanted, tick: Tick | None, workers: int | None) -> Dataset:
        """The images with their split, all of them checked."""

    def class_names(self, folder: Path | None, wanted: Wanted, sample: str | None) -> list[str]:
        """The classes in the order of the network's outputs, without reading an image."""

    def outline(self, folder: Path | None, wanted: Wanted) -> Dataset | None:
        """The images by their names alone, to be counted; None where names do not tell."""

    def reopen(self, root: Path, table: pd.DataFrame, classes: Sequence[str]) -> ImageSet:
        """The images that `table`, rows of a run's data.csv, names."""


SOURCES: dict[str, Source] = {"folder": image_folder, "mnist": mnist}
"""By the names of `data.source`."""


def read_source(
    source: str,
    folder: Path | None,
    wanted: Wanted,
    positive: str | None = None,
    tick: Tick | None = None,
    workers: int | None = None,
) -> Dataset:
    """The images of a source with their split.

    Args:
        source: a key of `SOURCES`.
        folder: of the images; of mnist, what holds MNIST/raw, None for the cache folder.
        wanted: which images, and how they are read and split.
        positive: a class: it against the rest.
        tick: called as `tick(done, total)` while images are read.
        workers: threads that read.

    Raises:
        DataError: images that are not usable. ResourceError: MNIST that is absent and cannot be fetched.
    """
    data = SOURCES[source].read(folder, wanted, tick, workers)
    return data if positive is None else data.against_rest(positive)


def class_names(
    source: str, folder: Path | None, wanted: Wanted, positive: str | None = None, sample: str | None = None
) -> list[str]:
    """The classes of a source in the order of the network's outputs, without reading an image.

    Args:
        source, folder, wanted, positive: as for `read_source`.
        sample: the built-in sample that will be written where there is no folder.

    Raises:
        DataError: no such folder, or no such class.
    """
    names = list(wanted.classes) if wanted.classes is not None else SOURCES[source].class_names(folder, wanted, sample)
    return names if positive is None else one_against_rest(positive, names)


def outline(source: str, folder: Path | None, wanted: Wanted, positive: str | None = None) -> Dataset | None:
    """The images of a source by their names alone, split as many to many as they will be; no image is opened.

    Args:
        source, folder, wanted, positive: as for `read_source`.

    Returns:
        Images to be counted, not to be read; None where there are none yet, or none that could be split.
    """
    data = SOURCES[source].outline(folder, wanted)
    return data if data is None or positive is None else data.against_rest(positive)


def reopen(source: str, root: Path, table: pd.DataFrame, classes: Sequence[str]) -> ImageSet:
    """The images of a run again.

    Args:
        source: a key of `SOURCES`.
        root: of the images.
        table: rows of the run's data.csv.
        classes: the class names.

    Raises:
        DataError, ResourceError: they are not there any more.
    """
    return SOURCES[source].reopen(root, table, classes)

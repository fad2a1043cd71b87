"""What is said of an image file, and which files are meant."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.data.given import Picture, as_list
from finetune.data.listing import is_hidden, is_image_name
from finetune.errors import DataError


@dataclass(frozen=True)
class Prediction:
    """What the network takes an image for.

    Attributes:
        path: of the file; empty for a picture that has none.
        label: the most probable class; None where the file is no readable image, or where the network abstained.
        confidence: probability of the most probable class.
        probabilities: of every class, by name.
        error: why there is no answer.
        abstained: the confidence is below the threshold that was asked for.
    """

    path: str
    label: str | None = None
    confidence: float | None = None
    probabilities: dict[str, float] | None = None
    error: str | None = None
    abstained: bool = False

    def top(self, k: int) -> list[tuple[str, float]]:
        """The `k` most probable classes with their probabilities, the first of equals first."""
        return sorted((self.probabilities or {}).items(), key=lambda item: -item[1])[:k]


def pictures_of(source: Picture | Iterable[Picture]) -> Picture | list[Picture]:
    """The one picture that is meant, or the list of them: folders and globs are replaced by their files.

    Raises:
        DataError: paths that match nothing.
    """
    several = as_list(source)
    if several is None and isinstance(source, str | Path):
        found = find_images([source])
        return list(found) if Path(source).is_dir() or len(found) != 1 else found[0]
    if several is None:
        return source  # type: ignore[return-value]  # `as_list` has seen that it is one
    if all(isinstance(picture, str | Path) for picture in several):
        return list(find_images(several))
    return several


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """The files that `paths` name: files as they are, folders with the samples below them, globs.

    Raises:
        DataError: a path or glob that matches nothing (all of them are named).
    """
    return list(Files(paths))


class Files:
    """The files that `paths` name, found anew each time they are gone through: a million of them take no memory.

    Args:
        paths: files, folders and globs.

    Raises:
        DataError: a path or glob that matches nothing (all of them are named).
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self._paths = paths
        missing = [problem for path in paths if (problem := _missing(path))]
        if missing:
            raise DataError(missing, "name image files, folders or globs that are there")

    def __iter__(self) -> Iterator[Path]:
        for name in self._paths:
            path = Path(name)
            if path.is_dir():
                yield from _samples(path)
            elif os.path.lexists(path):
                yield path
            else:
                yield from _matches(name)


def _missing(name: str | Path) -> str:
    """What is wrong with a path or glob, if anything is."""
    path = Path(name)
    if path.is_dir():
        return "" if next(_samples(path), None) else f"{path}: no images in this folder"
    there = os.path.lexists(path) or any(_matches(name))
    return "" if there else f"{path}: no such file or folder"


def _matches(name: str | Path) -> list[Path]:
    found = sorted(glob.glob(str(name), recursive=True)) if glob.has_magic(str(name)) else []
    return [Path(match) for match in found if not Path(match).is_dir()]


def _samples(folder: Path) -> Iterator[Path]:
    """The samples below a folder, in the order of their paths: not what a system left there, as the scan has it."""
    with os.scandir(folder) as entries:
        inside = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    for name, is_folder in inside:
        if is_hidden(name):
            continue
        if is_folder:
            yield from _samples(folder / name)
        elif is_image_name(name):
            yield folder / name

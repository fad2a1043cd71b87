"""Image files from paths: files, folders and globs. `predict` finds what a scan would find."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.data.formats import is_image_name
from finetune.data.notes import listing_notes
from finetune.data.walk import USUAL, Rules, Walk
from finetune.errors import DataError
from finetune.files import visible


class Files:
    """The files that `paths` name, found anew each time they are gone through: a million of them take no memory.

    Of a folder these are the samples below it, found as a scan finds them; runs of ours are no samples. A link that
    cannot be followed, or a pipe, comes too where it is named as an image, so that whoever reads it says why.

    Args:
        paths: files, folders and globs.
        rules: which files in folders are images.

    Attributes:
        notes: what is worth knowing about the folders that were gone through to their end, a line each.

    Raises:
        DataError: a path or glob that matches nothing (all of them are named).
    """

    def __init__(self, paths: Sequence[str | Path], rules: Rules = USUAL) -> None:
        self._paths = [Path(path).expanduser() for path in paths]
        self._rules = rules
        self.notes: list[str] = []
        missing = [problem for path in self._paths if (problem := self._missing(path))]
        if missing:
            raise DataError(missing, "name image files, folders or globs that are there")

    def __iter__(self) -> Iterator[Path]:
        self.notes = []
        for path in self._paths:
            if path.is_dir():
                yield from self._samples(path)
            elif os.path.lexists(path):
                yield path
            else:
                yield from _matches(path)

    def _missing(self, path: Path) -> str:
        """The problem with a path or glob; empty if there is none."""
        if path.is_dir():
            return "" if next(self._samples(path), None) else f"{visible(str(path))}: no images in this folder"
        return "" if os.path.lexists(path) or _matches(path) else f"{visible(str(path))}: no such file or folder"

    def _samples(self, folder: Path) -> Iterator[Path]:
        walk = Walk(folder, self._rules)
        listing = walk.listing
        listing.ours += [name for name, kind in walk.entries("") if kind == "folder" and walk.is_ours(name)]
        yield from (folder / path for path in walk.below(""))
        yield from (folder / path for path, _, _ in walk.linked())
        named = [path for path in [*(path for path, _ in listing.bad), *listing.irregular] if is_image_name(path)]
        yield from (folder / path for path in named)
        lines = [f"{visible(path)}: {reason}" for path, reason in listing.bad if path not in named]
        self.notes += [f"{visible(str(folder))}: {line}" for line in [*listing_notes(listing), *lines]]


def find_images(paths: Sequence[str | Path], rules: Rules = USUAL) -> list[Path]:
    """The files that `paths` name: files as they are, folders with the samples below them, globs.

    Args:
        paths, rules: as for `Files`.

    Raises:
        DataError: a path or glob that matches nothing (all of them are named).
    """
    return list(Files(paths, rules))


def _matches(path: Path) -> list[Path]:
    matches = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(str(path)) else []
    return [Path(match) for match in matches if not Path(match).is_dir()]

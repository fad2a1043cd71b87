"""Sorts files into one folder per predicted class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

from finetune.append import place_copy, place_moved
from finetune.deliver.predict import Prediction
from finetune.errors import UsageError


class Sorter:
    """Gives each file that has a label its place in FOLDER/LABEL, under a name that is free.

    Files without a label stay where they are; so do links, whose targets need not be reached from elsewhere.

    Args:
        folder: of the class folders.
        classes: all labels that may come.
        move: move the files; else copy them.
        apply: do it; else only tell what would be done.

    Attributes:
        counts: files of each label that have been placed.

    Raises:
        UsageError: a class whose name is no name of a folder.
    """

    def __init__(self, folder: Path, classes: Iterable[str], *, move: bool, apply: bool) -> None:
        bad = [name for name in classes if name in ("", ".", "..") or "/" in name or "\0" in name]
        if bad:
            raise UsageError(
                [f"{name!r}: a class of this name cannot be a folder" for name in bad], "sort by a table: --out"
            )
        self.folder, self.move, self.apply = folder, move, apply
        self.counts: Counter[str] = Counter()
        self._taken: set[int] = set()

    def unsorted(self, files: Iterable[Path]) -> Iterator[Path]:
        """The files but for those in the folder itself, which are sorted already."""
        inside = self.folder.resolve()
        return (path for path in files if not path.absolute().is_relative_to(inside))

    def place(self, row: Prediction) -> Path | None:
        """The destination of the file; None if it stays.

        Raises:
            ResourceError: it cannot be written there.
        """
        source = Path(row.path)
        if row.label is None or source.is_symlink():
            return None
        self.counts[row.label] += 1
        for target in _names(self.folder / row.label, source):
            if self._give(source, target):
                return target
        raise AssertionError("names do not run out")

    def _give(self, source: Path, target: Path) -> bool:
        if self.apply:
            return place_moved(source, target) if self.move else place_copy(source, target)
        free = hash(target) not in self._taken and not target.exists()
        self._taken.add(hash(target))
        return free


def _names(folder: Path, source: Path) -> Iterator[Path]:
    """The file's own name in the folder, then numbered ones."""
    yield folder / source.name
    yield from (folder / f"{source.stem}-{number}{source.suffix}" for number in count(2))

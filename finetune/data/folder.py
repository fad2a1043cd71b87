"""A folder of images as scripts use it: `ImageFolder(...).split(...)` gives train, val and test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from finetune.data.audit import Finding, audit, require_usable
from finetune.data.scan import scan
from finetune.data.split import split
from finetune.errors import DataError
from finetune.files import visible


class ImageSet:
    """Images of one split, in the order of their paths.

    Args:
        root: the folder that the paths are relative to.
        table: rows of `Scan.table`.
        classes: the class names; labels are positions in this list.
    """

    def __init__(self, root: Path, table: pd.DataFrame, classes: Sequence[str]) -> None:
        self.root = Path(root)
        self.table = table.reset_index(drop=True)
        self.classes = list(classes)

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        return f"ImageSet({len(self)} images, {len(self.classes)} classes, {visible(str(self.root))!r})"

    @cached_property
    def labels(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Position in `classes` of each image's class, [N], found by name.

        Raises:
            DataError: an image's class is not in `classes`.
        """
        position = {name: index for index, name in enumerate(self.classes)}
        unknown = sorted(set(self.table["class"]) - position.keys())
        if unknown:
            known = ", ".join(visible(name) for name in self.classes)
            raise DataError([f"class '{visible(name)}': is not known here" for name in unknown], f"known are: {known}")
        return np.array([position[name] for name in self.table["class"]], dtype=np.int64)

    @property
    def paths(self) -> list[Path]:
        """Where each image lies."""
        return [self.root / path for path in self.table["path"]]

    @property
    def hashes(self) -> list[str]:
        """The sha256 of each image file."""
        return list(self.table["sha256"])


class Dataset:
    """Images with their split.

    Args:
        root: the folder that the paths are relative to.
        table: as `Scan.table`, its column `split` filled with train, val and perhaps test.
        classes: the class names, in the order of the network's outputs.
        notes: what is worth knowing, a line each.
    """

    def __init__(self, root: Path, table: pd.DataFrame, classes: Sequence[str], notes: Sequence[str] = ()) -> None:
        self.root = Path(root)
        self.table = table
        self.classes = list(classes)
        self.notes = list(notes)

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(part)} {name}" for name in ("train", "val", "test") if (part := self._part(name)))
        return f"Dataset({counts}, {len(self.classes)} classes, {visible(str(self.root))!r})"

    @cached_property
    def train(self) -> ImageSet:
        """The images to learn from."""
        return self._part("train")

    @cached_property
    def val(self) -> ImageSet:
        """The images that choose the best epoch."""
        return self._part("val")

    @cached_property
    def test(self) -> ImageSet | None:
        """The images that only judge; None where there are none."""
        return self._part("test") or None

    def _part(self, name: str) -> ImageSet:
        return ImageSet(self.root, self.table[self.table["split"] == name], self.classes)


class ImageFolder:
    """A folder of images, scanned and found usable.

    Args:
        folder: one folder per class, or train/ and val/ (and test/) with one per class each.
        classes: only these, in this order; None for all, sorted by name.
        on_bad: "stop" refuses a folder with unreadable images; "skip" leaves them out (`.bad`).
        tick: called as `tick(done, total)` while the images are read; may raise to stop.
        workers: threads that read; None for one per core.

    Attributes:
        table: one row per image, see `finetune.data.scan.Scan`.
        classes: the class names in order.
        findings: what the audit found, none of it an error.
        notes: what is worth knowing, warnings of the audit included, a line each.
        bad: (path, reason) of the images left out.

    Raises:
        DataError: the folder is missing or empty, images are unreadable, or the classes are not usable; all problems
            of a kind at once.
    """

    def __init__(
        self,
        folder: str | Path,
        classes: Sequence[str] | None = None,
        on_bad: Literal["stop", "skip"] = "stop",
        tick: Callable[[int, int], None] | None = None,
        workers: int | None = None,
    ) -> None:
        self.scan = scan(Path(folder), classes, on_bad, tick, workers)
        self.findings: list[Finding] = audit(self.scan)
        require_usable(self.findings)
        self.root = self.scan.root
        self.table = self.scan.table
        self.classes = self.scan.classes
        self.bad = self.scan.bad
        warnings = [finding.message for finding in self.findings if finding.severity == "warning"]
        self.notes = [*self.scan.notes, *warnings]

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        return f"ImageFolder({len(self)} images, {len(self.classes)} classes, {visible(str(self.root))!r})"

    def split(self, val: float = 0.15, test: float = 0.15, seed: int = 0) -> Dataset:
        """Images to learn from, to choose with and to judge by; see `finetune.data.split.split`.

        A folder with train/ and val/ keeps its own split, whatever the arguments say; a note tells so.

        Raises:
            DataError: a class cannot be split.
            UsageError: the fractions make no split.
        """
        if self.scan.split_layout:
            own = " and ".join(f"{name}/" for name in self.scan.folders)
            return Dataset(self.root, self.table, self.classes, [*self.notes, f"split by the folder itself: {own}"])
        return Dataset(self.root, self.table.assign(split=split(self.table, val, test, seed)), self.classes, self.notes)

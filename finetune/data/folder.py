"""A folder of images as scripts use it, `ImageFolder(...).split(...)`, and as a source of recipes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from finetune.data.audit import Finding, audit, require_usable
from finetune.data.dataset import Dataset, ImageSet
from finetune.data.decode import Decoding
from finetune.data.group import groups_of, units, units_of
from finetune.data.listing import list_folder
from finetune.data.samples.catalogue import CLASSES
from finetune.data.scan import COLUMNS, scan
from finetune.data.split import fill
from finetune.data.wanted import Wanted
from finetune.errors import DataError, UsageError
from finetune.files import visible


class ImageFolder:
    """A folder of images, scanned and found usable.

    Args:
        folder: one folder per class, or train/ and val/ (and test/) with one per class each.
        classes: only these, in this order; None for all, sorted by name.
        on_bad: "stop" refuses a folder with unreadable images; "skip" leaves them out (`.bad`).
        tick: called as `tick(done, total)` while the images are read; may raise to stop.
        workers: threads that read; None for one per core.
        links: "follow" links to files and folders inside the folder or of the same owner, or "refuse" all.
        range: the numbers that are black and white in images of more than 8 bits; "auto": found in the images.
        extensions: endings of the images' names, with their dots; None: the usual ones, else the content.
        max_megapixels: larger images are unreadable.
        group: what stays in one split: a regular expression on paths, "folder", or a CSV with path and group.

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
        folder: str | os.PathLike[str],
        classes: Sequence[str] | None = None,
        on_bad: Literal["stop", "skip"] = "stop",
        tick: Callable[[int, int], None] | None = None,
        workers: int | None = None,
        *,
        links: Literal["follow", "refuse"] = "follow",
        range: tuple[float, float] | Literal["auto", "dtype"] = "auto",
        extensions: Sequence[str] | None = None,
        max_megapixels: float = 100.0,
        group: str | None = None,
    ) -> None:
        if not isinstance(folder, str | os.PathLike):
            raise UsageError(
                f"folder: {folder!r} is not a path", "give the folder of images, as text or a pathlib.Path"
            )
        self.wanted = Wanted(
            classes=None if classes is None else tuple(classes),
            on_bad=on_bad,
            links=links,
            range=range,
            extensions=None if extensions is None else tuple(extensions),
            max_megapixels=max_megapixels,
            group=group,
        )
        self.scan = scan(Path(folder), self.wanted, tick, workers)
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
        """Images to learn from, to choose with and to evaluate on; see `finetune.data.split.split`.

        A folder that is split keeps its own split, whatever the arguments say; what it lacks is cut off train/.

        Raises:
            DataError: a class cannot be split.
            UsageError: the fractions make no split.
        """
        bases, notes = self.scan.bases, list(self.notes)
        if bases:
            notes.append(f"split by the folder itself: {' and '.join(f'{visible(name)}/' for name in bases.values())}")
            lacking = [] if "val" in bases else ["validation"] if "test" in bases else ["validation", "test"]
            if lacking:
                notes.append(f"images for {' and '.join(lacking)} are taken out of {visible(bases['train'])}/")
        together = units(self.scan, self.wanted.group)
        table = self.table.assign(split=fill(self.table, val, test, seed, together))
        decoding = Decoding(self.scan.range, self.wanted.max_megapixels)
        return Dataset(self.root, table, self.classes, notes, bad=self.bad, decoding=decoding, units=together)


# --- as a source of recipes ------------------------------------------------------------------------------------------


def read(folder: Path | None, wanted: Wanted, tick: Callable[[int, int], None] | None, workers: int | None) -> Dataset:
    """The images of a folder with their split, every one of them decoded once.

    Raises:
        DataError: images or classes that are not usable.
    """
    assert folder is not None
    images = ImageFolder(
        folder,
        wanted.classes,
        wanted.on_bad,
        tick,
        workers,
        links=wanted.links,
        range=wanted.range,
        extensions=wanted.extensions,
        max_megapixels=wanted.max_megapixels,
        group=wanted.group,
    )
    return images.split(wanted.val, wanted.test, wanted.seed)


def class_names(folder: Path | None, wanted: Wanted, sample: str | None) -> list[str]:
    """The names of the class folders, sorted; of a sample that is not written yet, its classes.

    Raises:
        DataError: no such folder.
    """
    if sample is not None and folder is not None and not folder.exists():
        return list(CLASSES[sample])
    if folder is None or not folder.is_dir():
        raise DataError(f"data.folder: {folder}: no such folder", "give one with a folder of images per class")
    return list_folder(folder, None, wanted.rules).classes


def outline(folder: Path | None, wanted: Wanted) -> Dataset | None:
    """The images by their names alone, split as many to many as they will be; None where they could not be split."""
    if folder is None or not folder.is_dir():
        return None
    listing = list_folder(folder, wanted.classes, wanted.rules)
    rows = [(path, name, part, path, 0, 0, 0, "") for path, (name, part) in sorted(listing.samples.items())]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    try:
        paths = list(table["path"])
        grouped = None if wanted.group is None else units_of(paths, groups_of(paths, wanted.group, folder))
        table["split"] = fill(table, wanted.val, wanted.test, wanted.seed, grouped)
    except DataError:
        return None
    data = Dataset(folder, table, list(wanted.classes) if wanted.classes is not None else listing.classes)
    return data if len(data.train) and len(data.val) else None


def reopen(root: Path, table: pd.DataFrame, classes: Sequence[str]) -> ImageSet:
    """The images of a run again; whether they are still the same shows when they are read."""
    return ImageSet(root, table, classes)

"""Images as a table: those of one split, and a whole data set with its splits. Nothing is read here."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from finetune.data.decode import PLAIN, Decoding
from finetune.errors import DataError, did_you_mean
from finetune.files import visible


class ImageSet:
    """Images of one split, in the order of their paths.

    Args:
        root: the folder that the paths are relative to.
        table: rows of `Scan.table`.
        classes: the class names; labels are positions in this list.
        pixels: uint8 [N, H, W], grey, where the images are in memory already and `root` holds no file for each.
        units: what each image belongs to that no split and no fold may divide; None: each content is for itself.
    """

    def __init__(
        self,
        root: Path,
        table: pd.DataFrame,
        classes: Sequence[str],
        pixels: np.ndarray | None = None,
        units: Sequence[str] | np.ndarray | None = None,
    ) -> None:
        self.root = Path(root)
        self.table = table.reset_index(drop=True)
        self.classes = list(classes)
        self.pixels = pixels
        self._units = None if units is None else list(units)

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
        """The path of each image."""
        return [self.root / path for path in self.table["path"]]

    @property
    def hashes(self) -> list[str]:
        """The sha256 of each image file."""
        names: list[str] = self.table["sha256"].tolist()
        return names

    @property
    def units(self) -> list[Any]:
        """For each image the unit that no split or fold may divide: its group, else its content."""
        return self.hashes if self._units is None else self._units

    def base_rate(self) -> tuple[str, float]:
        """The largest class, and how often answering it always would be right."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        return self.classes[int(counts.argmax())], float(counts.max() / max(1, len(self)))


class Dataset:
    """Images with their split.

    Args:
        root: the folder that the paths are relative to.
        table: as `Scan.table`, its column `split` filled with train, val and perhaps test.
        classes: the class names, in the order of the network's outputs.
        notes: what is worth knowing, a line each.
        bad: (path, reason) of the images left out.
        warnings: what whoever reads the figures must know, a line each.
        pixels: uint8 [N, H, W], a row for each of the table, where the images are in memory already.
        decoding: how the images are decoded; a network that learns from them keeps it.
        units: of each row, what no split and no fold may divide (see `finetune.data.group.units`); None: each content.
    """

    def __init__(
        self,
        root: Path,
        table: pd.DataFrame,
        classes: Sequence[str],
        notes: Sequence[str] = (),
        *,
        bad: Sequence[tuple[str, str]] = (),
        warnings: Sequence[str] = (),
        pixels: np.ndarray | None = None,
        decoding: Decoding = PLAIN,
        units: Sequence[str] | None = None,
    ) -> None:
        self.root = Path(root)
        self.table = table
        self.classes = list(classes)
        self.notes = list(notes)
        self.bad = list(bad)
        self.warnings = list(warnings)
        self.pixels = pixels
        self.decoding = decoding
        self.units = None if units is None else np.array(units, dtype=object)

    @property
    def left_out(self) -> list[str]:
        """The images that could not be read, with the reason, a line each."""
        return [f"{path}: {reason}; left out" for path, reason in self.bad]

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
        """The images that are only tested on; None where there are none."""
        return self._part("test") or None

    def against_rest(self, positive: str) -> Dataset:
        """The same images with two classes: `not POSITIVE` and POSITIVE.

        Raises:
            DataError: there is no such class.
        """
        classes = one_against_rest(positive, self.classes)
        data = copy(self)
        data.table, data.classes = relabelled(self.table, *classes), classes
        for name in ("train", "val", "test"):
            data.__dict__.pop(name, None)  # the properties that are kept once they were asked for
        rates = [(name, part.base_rate()) for name, part in data.parts()]
        data.warnings = [
            f"'{visible(positive)}' against the rest: always answering '{visible(largest)}' would be right for "
            f"{rate:.4f} of {name}"
            for name, (largest, rate) in rates
        ]
        return data

    def parts(self) -> list[tuple[str, ImageSet]]:
        """Name and images of each split that there is."""
        parts = [("train", self.train), ("val", self.val), ("test", self.test)]
        return [(name, part) for name, part in parts if part is not None]

    def _part(self, name: str) -> ImageSet:
        rows = (self.table["split"] == name).to_numpy()
        pixels, units = (None if known is None else known[rows] for known in (self.pixels, self.units))
        return ImageSet(self.root, self.table[rows], self.classes, pixels, units)


def one_against_rest(positive: str, classes: Sequence[str]) -> list[str]:
    """The two classes that are left of `classes` when one of them is put against the rest.

    Raises:
        DataError: there is no such class.
    """
    if positive not in classes:
        near = did_you_mean(positive, classes)
        known = ", ".join(visible(name) for name in classes)
        raise DataError(f"data.positive: {visible(positive)!r}: no such class{near}", f"the classes are {known}")
    return [f"not {positive}", positive]


def relabelled(table: pd.DataFrame, rest: str, positive: str) -> pd.DataFrame:
    """The images with two classes: whatever is not `positive` is `rest`."""
    labels = np.where(table["class"] == positive, positive, rest).astype(object)
    return table.assign(**{"class": labels})

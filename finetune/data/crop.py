"""How much of the pictures the network never sees, because they are long or high."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from finetune.data.audit import Finding
from finetune.errors import setting

HIDDEN = 0.2
"""Share of a picture's long side beyond which what the centre crop cuts off is worth a word."""

MANY = 0.25
"""Share of the pictures from which on it is said."""


def hidden_by_crop(root: Path, table: pd.DataFrame, size: tuple[int, int] = (1, 1)) -> Iterator[Finding]:
    """A note where the centre crop hides more than `HIDDEN` of many pictures, by their shape alone.

    Args:
        root: the data folder.
        table: as `Scan.table`.
        size: height and width that the network takes.
    """
    shapes = (table["width"] / table["height"]) * (size[0] / size[1])
    visible_share = pd.concat([shapes, 1 / shapes], axis=1).min(axis=1)
    long = table.loc[visible_share < 1 - HIDDEN, "path"]
    if len(long) > MANY * len(table):
        squash = setting("model.preprocess.crop_mode", "squash")
        message = (
            f"the centre crop hides more than a fifth of {len(long):,} of {len(table):,} images, long or high ones; "
            f"{squash} shows all of them, with other proportions; border adds margins"
        )
        yield Finding("hidden by the crop", "note", message, tuple(str(root / path) for path in long))

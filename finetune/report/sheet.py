"""Rows of thumbnails as one self-contained page: a picture, and others beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from finetune.data.decode import decode
from finetune.errors import BadImage
from finetune.report.html import render_page
from finetune.report.thumbnails import SIDE, thumbnail


@dataclass(frozen=True)
class Cell:
    """An image file with a caption and a figure."""

    path: Path
    caption: str
    figure: str = ""


@dataclass(frozen=True)
class Row:
    """An image, and those that belong to it."""

    first: Cell
    others: Sequence[Cell] = field(default_factory=list)


def sheet_html(title: str, about: str, rows: Sequence[Row]) -> str:
    """The page; nothing outside it is loaded, and every name is escaped."""
    pictures = {cell.path: picture_of(cell.path) for row in rows for cell in (row.first, *row.others)}
    return render_page("sheet.html.j2", title=title, about=about, rows=rows, pictures=pictures, side=SIDE)


def picture_of(path: Path, side: int = SIDE) -> str:
    """A small picture of an image file as a `data:` address; empty where it is gone or cannot be read."""
    try:
        return thumbnail(decode(path, "RGB", draft=(2 * side, 2 * side)), side)
    except BadImage:
        return ""

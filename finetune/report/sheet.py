"""Rows of thumbnails as one self-contained page: a picture, and others beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from finetune.data.decode import decode
from finetune.errors import BadImage
from finetune.files import markup

SIDE = 128
"""Longest side of a thumbnail, in pixels."""


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


def thumbnail(path: Path, side: int = SIDE) -> bytes | None:
    """A small JPEG of an image file; None where it is gone or cannot be read.

    Args:
        path: of the file.
        side: longest side, in pixels.
    """
    try:
        image = decode(path, "RGB", draft=(2 * side, 2 * side))
    except BadImage:
        return None
    image.thumbnail((side, side))
    memory = io.BytesIO()
    image.save(memory, "JPEG", quality=80)
    return memory.getvalue()


def jpeg_uri(jpeg: bytes | None) -> str:
    """The bytes of a JPEG as a page holds them; nothing for nothing."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode() if jpeg else ""


def sheet_html(title: str, about: str, rows: Sequence[Row], side: int = SIDE) -> str:
    """The page; nothing outside it is loaded, and every name is escaped."""
    environment = Environment(
        loader=PackageLoader("finetune", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else Markup(markup(value)),
    )
    pictures = {cell.path: "" for row in rows for cell in (row.first, *row.others)}
    for path in pictures:
        pictures[path] = jpeg_uri(thumbnail(path, side))
    return environment.get_template("sheet.html.j2").render(
        title=title, about=about, rows=rows, pictures=pictures, side=side
    )

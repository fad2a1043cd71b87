"""Writes the page of a comparison, with the pictures of the images that flipped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.data.decode import decode
from finetune.deliver.compare import Side, image_files
from finetune.errors import FinetuneError
from finetune.files import write_text
from finetune.report.compare_page import compare_html
from finetune.report.thumbnails import SIDE, thumbnail


def write_comparison(path: Path, found: Mapping[str, Any], first: Side) -> None:
    """Publish the page at `path`.

    Args:
        path: of the page.
        found: as `compare` gives it.
        first: the side whose data folder holds the images; where it is gone, the page has no pictures.

    Raises:
        ResourceError: it cannot be written.
    """
    files = image_files(first)

    def picture(name: str) -> str:
        if name not in files:
            return ""
        try:
            return thumbnail(decode(files[name], "RGB", (SIDE, SIDE)))
        except FinetuneError:  # gone or changed since: the page shows its name
            return ""

    write_text(path, compare_html(found, picture))

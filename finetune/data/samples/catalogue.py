"""The built-in samples by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from finetune.data.samples import vehicles
from finetune.files import write_text

MARK = ".sample"
"""A hidden file that tells a drawn folder from one's own photographs put in its place."""

DRAW: dict[str, Callable[..., list[str]]] = {"vehicles": vehicles.draw}
CLASSES = {"vehicles": sorted(vehicles.BUILDERS)}


def write_sample(name: str, folder: Path, **how: int) -> list[str]:
    """Write the sample `name` into `folder`, which must be absent or empty; returns the class names."""
    classes = DRAW[name](folder, **how)
    write_text(folder / MARK, f"{name}: made by finetune; no photographs\n")
    return classes


def is_sample(folder: Path) -> bool:
    """Whether `folder` was written by `write_sample`."""
    return (folder / MARK).is_file()

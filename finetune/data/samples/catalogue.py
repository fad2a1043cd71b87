"""The built-in samples by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from finetune.data.samples import digits, vehicles
from finetune.errors import UsageError
from finetune.files import write_text

MARK = ".sample"
"""A hidden file that tells a folder of ours from one's own photographs put in its place."""

DRAW: dict[str, Callable[..., list[str]]] = {"vehicles": vehicles.draw, "digits": digits.draw}
CLASSES = {"vehicles": sorted(vehicles.BUILDERS), "digits": digits.CLASSES}
ABOUT = {
    "vehicles": "These are drawn pictures.",
    "digits": "These are 1,797 real handwritten digits of 8x8 pixels, from scikit-learn.",
}
DRAWN = {"vehicles"}
"""Those that are drawn by a program."""


def write_sample(name: str, folder: Path, **how: int) -> list[str]:
    """Write the sample `name` into `folder`, which must be absent or empty; returns the class names.

    Raises:
        UsageError: the folder is not empty, or an argument that the sample does not have.
    """
    if how and name not in DRAWN:
        given = ", ".join(how)
        raise UsageError(f"{given}: the sample {name} is as it is", "leave it out; only vehicles are drawn to order")
    classes = DRAW[name](folder, **how)
    write_text(folder / MARK, f"{name}: written by finetune; {'no photographs' if name in DRAWN else 'real data'}\n")
    return classes


def is_drawn(folder: Path) -> bool:
    """Whether `folder` holds a drawn sample of ours."""
    mark = folder / MARK
    return mark.is_file() and mark.read_text("utf-8", "replace").partition(":")[0] in DRAWN

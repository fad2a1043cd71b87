"""Paths for our own files: never among the images, where the next scan would find and train on them."""

from __future__ import annotations

from pathlib import Path

from finetune.errors import UsageError, option
from finetune.files import visible


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path, which need not exist, is a folder or lies below it, links resolved."""
    return path.expanduser().resolve().is_relative_to(folder.expanduser().resolve())


def require_outside(path: Path, folder: Path | None, flag: str = "out") -> None:
    """Refuse to write into the data folder, before anything is made.

    Args:
        path: what would be written.
        folder: of the images; None where they have none.
        flag: the option or argument that said it.

    Raises:
        UsageError: `path` is the data folder or lies in it.
    """
    if folder is not None and is_inside(path, folder):
        beside = folder.resolve().parent / path.resolve().name
        raise UsageError(
            f"{option(flag, visible(str(path)))}: inside the data folder {visible(str(folder))}",
            f"choose a place outside, for instance {option(flag, visible(str(beside)))}",
        )


def home_of_runs(folder: Path | None) -> Path:
    """The default folder of runs: `runs` in the working folder, or beside the data if the working folder is in them."""
    if folder is not None and folder.is_dir() and is_inside(Path("runs"), folder):
        return folder.resolve().parent / "runs"
    return Path("runs")

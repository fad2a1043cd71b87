"""The table `data.csv` of a run: which images it was made of, and whether they are still the same."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from finetune.data.listing import list_folder
from finetune.files import cell, sha256_file, write_csv


def write_manifest(path: Path, table: pd.DataFrame) -> None:
    """Publish `data.csv`: path, class, split, sha256, bytes, width, height, mode."""
    write_csv(path, list(table.columns), table.itertuples(index=False, name=None))


def read_manifest(path: Path, root: Path, classes: Sequence[str]) -> pd.DataFrame:
    """The table in `path` again, with the names as they are on the disk and not as a table shows them.

    A name that a spreadsheet would take for a formula, or that no table can hold, stands guarded or escaped there; what
    it was is found among the files below `root`, of several that look alike the one with the same content.

    Args:
        path: of a `data.csv`.
        root: the folder that its paths are relative to.
        classes: the class names as they are.
    """
    text = dict.fromkeys(("path", "class", "split", "sha256", "mode"), str)
    table = pd.read_csv(path, dtype=text, keep_default_na=False)
    names = {str(cell(name)): name for name in classes}
    table["class"] = _text([names.get(name, name) for name in table["class"]])
    if not root.is_dir() or not table["path"].str.contains(r"^'|\\", regex=True).any():
        return table
    alike: dict[str, list[str]] = {}
    for name in list_folder(root, strict=False).samples:
        alike.setdefault(str(cell(name)), []).append(name)
    rows = zip(table["path"], table["sha256"], strict=True)
    table["path"] = _text([_real_name(alike.get(name, [name]), sha256, root) for name, sha256 in rows])
    return table


def _text(values: list[str]) -> pd.Series[str]:
    """A column of names; pandas' own text type refuses those that are not UTF-8."""
    return pd.Series(values, dtype=object)


def _real_name(candidates: list[str], sha256: str, root: Path) -> str:
    if len(candidates) == 1:
        return candidates[0]
    return next((name for name in candidates if sha256_file(root / name) == sha256), candidates[0])


def changes(path: Path, table: pd.DataFrame) -> list[str]:
    """How the images differ from those in the manifest `path`, a line a kind; nothing where there is no manifest."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        before = {row["path"]: (row["sha256"], row["class"]) for row in csv.DictReader(file)}
    columns = zip(table["path"], table["sha256"], table["class"], strict=True)
    now = {str(cell(name)): (sha256, str(cell(label))) for name, sha256, label in columns}
    names_by_change = {
        "added": sorted(now.keys() - before.keys()),
        "removed": sorted(before.keys() - now.keys()),
        "changed": sorted(name for name in now.keys() & before.keys() if now[name] != before[name]),
    }
    return [
        f"{len(names)} {what} since the run began: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        for what, names in names_by_change.items()
        if names
    ]

"""The table `data.csv` of a run: which images it was made of, and whether they are still the same."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd

from finetune.files import cell, write_csv


def write_manifest(path: Path, table: pd.DataFrame) -> None:
    """Publish `data.csv`: path, class, split, sha256, bytes, width, height, mode."""
    write_csv(path, list(table.columns), table.itertuples(index=False, name=None))


def changes(path: Path, table: pd.DataFrame) -> list[str]:
    """How the images differ from those in the manifest `path`, a line a kind; nothing where there is no manifest."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        before = {row["path"]: (row["sha256"], row["class"]) for row in csv.DictReader(file)}
    columns = zip(table["path"], table["sha256"], table["class"], strict=True)
    now = {str(cell(name)): (sha256, str(cell(label))) for name, sha256, label in columns}
    found = {
        "added": sorted(now.keys() - before.keys()),
        "removed": sorted(before.keys() - now.keys()),
        "changed": sorted(name for name in now.keys() & before.keys() if now[name] != before[name]),
    }
    return [
        f"{len(names)} {what} since the run began: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        for what, names in found.items()
        if names
    ]

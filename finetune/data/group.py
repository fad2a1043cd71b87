"""Groups of images that must stay in one split: frames of one video, pictures of one patient.

A random split puts the frames of a video on both sides, and the test then asks what training has seen.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from finetune.data.scan import Scan
from finetune.errors import DataError, UsageError
from finetune.files import visible


def groups_of(paths: Sequence[str], group: str, root: Path) -> list[str]:
    """The group of each image; an image that is in none is a group of its own.

    Args:
        paths: posix, relative to the data folder.
        group: "folder" (the folder that an image lies in), a CSV file with the columns path and group, or a regular
            expression on the paths: its first group (or all it matches) names the group.
        root: the data folder.

    Raises:
        UsageError: no regular expression, or one that matches no image.
        DataError: a CSV file that is missing or lacks the columns, or names no image.
    """
    if group == "folder":
        return [f"folder {path.rpartition('/')[0]}" for path in paths]
    if group.endswith(".csv"):
        known = _from_csv(Path(group), root)
        groups = [known.get(path) for path in paths]
    else:
        pattern = compiled(group)
        matches = [pattern.search(path) for path in paths]
        groups = [None if match is None else match.group(1 if pattern.groups else 0) for match in matches]
    if not any(name is not None for name in groups):
        problem = f"data.group: {visible(group)!r} groups none of {len(paths):,} images such as {visible(paths[0])}"
        raise UsageError(problem, "write a regular expression on paths, for example '(patient[0-9]+)_'")
    return [f"image {path}" if name is None else f"group {name}" for name, path in zip(groups, paths, strict=True)]


def compiled(group: str) -> re.Pattern[str]:
    """The regular expression of a `data.group`.

    Raises:
        UsageError: it is none.
    """
    try:
        return re.compile(group)
    except re.error as error:
        problem = f"data.group: {visible(group)!r} is no regular expression: {error}"
        raise UsageError(problem, "write a regular expression, `folder`, or a file that ends in .csv") from error


def _from_csv(file: Path, root: Path) -> dict[str, str]:
    """Path → group, as the rows say; absolute paths are taken as those below the root."""
    if not file.is_file():
        raise DataError(
            f"data.group: {visible(str(file))}: no such file", "name a CSV file with columns path and group"
        )
    with open(file, encoding="utf-8-sig", newline="") as opened:
        rows = list(csv.DictReader(opened))
    if not rows or not {"path", "group"} <= rows[0].keys():
        columns = ", ".join(rows[0]) if rows else "none"
        raise DataError(
            f"data.group: {visible(str(file))}: its columns are {visible(columns)}", "name them path and group"
        )
    below = f"{root.as_posix()}/"
    return {row["path"].replace("\\", "/").removeprefix(below): row["group"] for row in rows}


def units(scan: Scan, group: str | None) -> list[str] | None:
    """For each image of a scan its unit (see `units_of`); None without a group, as content alone then decides.

    Raises:
        UsageError, DataError: as for `groups_of`.
    """
    if group is None:
        return None
    return units_of(list(scan.table["sha256"]), groups_of(list(scan.table["path"]), group, scan.root))


def units_of(hashes: Sequence[str], groups: Sequence[str]) -> list[str]:
    """For each image its unit: images that share content or group, directly or through others.

    Args:
        hashes: the sha256 of each image.
        groups: the group of each image.

    Returns:
        A name for the unit of each image: the least of its hashes, so that names of files do not matter.
    """
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for content, group in zip(hashes, groups, strict=True):
        parent[find(f"\0{group}")] = find(content)
    roots = [find(content) for content in hashes]
    least = pd.Series(list(hashes), dtype=object).groupby(pd.Series(roots, dtype=object)).min()
    return [str(least[name]) for name in roots]

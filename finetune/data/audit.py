"""Checks of a scanned folder before anything is trained on it: errors, warnings and notes."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from finetune.data import split as splitting
from finetune.data.group import units
from finetune.data.layout import SPLITS
from finetune.data.notes import count, named
from finetune.data.scan import Scan, range_text, scan
from finetune.data.wanted import Wanted
from finetune.errors import DataError
from finetune.files import visible

FEW = 20
"""A class with fewer images is too small to learn or to evaluate reliably."""


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
        kind: a short name.
        severity: with an error nothing can be trained; a warning should be looked at; a note is worth knowing.
        message: a line for people that names the culprit.
        paths: the images that it is about, absolute.
        proposal: what to do about them, in a few words for a table; empty: look at them.
    """

    kind: str
    severity: Literal["error", "warning", "note"]
    message: str
    paths: tuple[str, ...] = ()
    proposal: str = ""


def audit_folder(
    folder: Path, wanted: Wanted, tick: Callable[[int, int], None] | None = None
) -> tuple[Scan, list[Finding]]:
    """Scan a folder and audit it as it would be split; images that cannot be read are findings, not errors.

    Args:
        folder: with one folder of images per class, or split already.
        wanted: which images, and how they would be split.
        tick: told (done, total) while images are read.
    """
    scanned = scan(folder, replace(wanted, on_bad="skip"), tick)
    findings = audit(scanned)
    if not any(finding.severity == "error" for finding in findings):
        together = units(scanned, wanted.group)
        splits = splitting.fill(scanned.table, wanted.val, wanted.test, wanted.seed, together)
        scanned = replace(scanned, table=scanned.table.assign(split=splits))
        findings = audit(scanned)
    return scanned, findings


def blocking(findings: Iterable[Finding], *, strict: bool, skip_unreadable: bool) -> list[Finding]:
    """The findings with which a run would not start; with `strict` all but the notes."""
    return [
        finding
        for finding in findings
        if finding.severity == "error"
        or (finding.kind == "unreadable" and not skip_unreadable)
        or (strict and finding.severity != "note")
    ]


def audit(scan: Scan) -> list[Finding]:
    """All findings on a folder, gravest first.

    Kinds: `name collision`, `class only in val or test`, `empty class`, `one class`, `single image`, `empty split`
    (errors); `unreadable`, `nearly uniform`, `class missing`, `duplicates across splits`,
    `duplicates across classes`, `few images` (warnings); `duplicates` (a note).

    Args:
        scan: what `finetune.data.scan.scan` found.
    """
    findings = [*_names(scan), *_counts(scan), *_own_split(scan), *_unreadable(scan), *_uniform(scan)]
    findings += _duplicates(scan.root, scan.table)
    return sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding.severity))


def require_usable(findings: Iterable[Finding]) -> None:
    """Refuse data with errors.

    Raises:
        DataError: all findings of severity "error", one line each.
    """
    problems = [finding.message for finding in findings if finding.severity == "error"]
    if problems:
        raise DataError(problems, "fix the folder, or name the classes to use with data.classes")


def _names(scan: Scan) -> Iterator[Finding]:
    """Class names that are one name to some file system, font or reader."""
    alike: dict[str, set[str]] = {}
    for folders in scan.folders.values():
        for name in folders:
            # what macOS, Windows or a font would show as one name; folding case may undo a composition, so twice
            key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
            alike.setdefault(key, set()).add(name)
    for names in alike.values():
        if len(names) > 1:
            listed = " and ".join(_exactly(name, names) for name in sorted(names))
            yield Finding("name collision", "error", f"{listed}: class names that differ only in case or code points")


def _exactly(name: str, names: set[str]) -> str:
    """A name that can be told from those it collides with: code points where they look the same."""
    composed = [unicodedata.normalize("NFC", other) for other in names]
    return ascii(name) if composed.count(unicodedata.normalize("NFC", name)) > 1 else repr(visible(name))


def _counts(scan: Scan) -> Iterator[Finding]:
    learning = scan.table[scan.table["split"] == "train"] if scan.split_layout else scan.table
    where = "train/ has" if scan.split_layout else "has"
    counts = learning["class"].value_counts()
    if len(scan.classes) == 1:
        message = f"{_root(scan)}: one class only, {_quoted(scan.classes[0])}: there is nothing to tell apart"
        yield Finding("one class", "error", message)
    if not scan.classes:
        yield Finding("empty split", "error", f"{_root(scan)}/train: no class folders")
    for name in scan.classes:
        count = int(counts.get(name, 0))
        if count == 0:
            yield Finding("empty class", "error", f"class {_quoted(name)}: {where} no images of it")
        elif count == 1 and not scan.split_layout and counts.max() == 1:
            yield Finding("single image", "error", f"class {_quoted(name)}: a single image, which cannot be split")
        elif count == 1 and not scan.split_layout:
            message = "a single image, which is learned from; how well the class is recognised cannot be known"
            yield Finding("single image", "warning", f"class {_quoted(name)}: {message}")
    few = [f"{visible(name)} ({counts[name]})" for name in scan.classes if 0 < counts.get(name, 0) < FEW]
    if few:
        message = f"fewer than {FEW} images, too few to learn from reliably: {', '.join(few)}"
        yield Finding("few images", "warning", message)


def _own_split(scan: Scan) -> Iterator[Finding]:
    """How the classes of val/ and test/ fit those of train/."""
    learned = set(scan.table.loc[scan.table["split"] == "train", "class"])
    for split in [split for split in SPLITS[1:] if split in scan.folders]:
        for name in sorted(set(scan.folders[split]) - set(scan.classes)):
            message = f"class {_quoted(name)}: is in {split}/ but not in train/, so it could never be learned"
            yield Finding("class only in val or test", "error", message)
        there = set(scan.table.loc[scan.table["split"] == split, "class"])
        if not there:
            yield Finding("empty split", "error", f"{_root(scan)}/{split}: no images in class folders")
            continue
        for name in [name for name in scan.classes if name in learned - there]:
            message = f"class {_quoted(name)}: {split}/ has no images of it, so its metrics there stay empty"
            yield Finding("class missing", "warning", message)


def _unreadable(scan: Scan) -> Iterator[Finding]:
    for path, reason in scan.bad:
        yield Finding("unreadable", "warning", f"{visible(path)}: {reason}; left out", (str(scan.root / path),))


def _uniform(scan: Scan) -> Iterator[Finding]:
    """Images whose pixels all come out alike: blank ones, or numbers scaled by a range that does not fit."""
    if scan.uniform:
        what = "comes out nearly uniform" if len(scan.uniform) == 1 else "come out nearly uniform"
        deep = f"; black and white: {range_text(scan.range)} (data.range)" if scan.range is not None else ""
        message = f"{count(len(scan.uniform), 'image')} {what} (blank, or numbers out of range{deep}): "
        paths = tuple(str(scan.root / path) for path in scan.uniform)
        yield Finding("nearly uniform", "warning", message + named(scan.uniform), paths)


def _duplicates(root: Path, table: pd.DataFrame) -> Iterator[Finding]:
    """Files with exactly the same bytes."""
    twins = table[table["sha256"].duplicated(keep=False)]
    for _, rows in sorted(twins.groupby("sha256"), key=lambda group: str(group[1]["path"].iloc[0])):
        where = tuple(str(root / path) for path in rows["path"])
        across_classes, across_splits = rows["class"].nunique() > 1, rows["split"].nunique() > 1
        if across_classes:
            message = f"the same image in several classes: {_paths(rows, 'class')}"
            yield Finding("duplicates across classes", "warning", message, where)
        if across_splits:
            labels = ", ".join(split for split in SPLITS if split in set(rows["split"]))
            message = f"the same image in {labels}: {_paths(rows, 'split')}"
            yield Finding("duplicates across splits", "warning", message, where)
        if not across_classes and not across_splits:
            yield Finding("duplicates", "note", f"the same image {len(rows)} times: {_paths(rows, 'path')}", where)


def _paths(rows: pd.DataFrame, column: str) -> str:
    """The paths of a group of duplicates, one of each value of `column` first, at most four."""
    firsts = rows.drop_duplicates(column)
    ordered: Sequence[str] = [*firsts["path"], *rows.drop(firsts.index)["path"]]
    more = f" and {len(ordered) - 4} more" if len(ordered) > 4 else ""
    return ", ".join(visible(path) for path in ordered[:4]) + more


def _quoted(name: str) -> str:
    return f"'{visible(name)}'"


def _root(scan: Scan) -> str:
    return visible(str(scan.root))

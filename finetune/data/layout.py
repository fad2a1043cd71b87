"""Class folders, or split folders with class folders in each: told by names, and by what lies below them.

Taking train/ and test/ for two classes gives a classifier of nothing with a wonderful score. So the usual names of
splits are known in any case and spelling; and what looks like splits but could be read in two ways is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from finetune.data.walk import Listing, Walk, join
from finetune.errors import DataError, setting
from finetune.files import visible

SPLITS = ("train", "val", "test")

_NAMES = {
    "train": {"train", "training", "trn"},
    "val": {"val", "valid", "validation", "validate", "dev", "development"},
    "test": {"test", "testing", "tst", "holdout"},
}
_FILLERS = {"set", "sets", "data", "dataset", "image", "images", "img", "imgs", "split", "folder", "dir", "part", "the"}
_GLUED = re.compile(r"(set|data|dataset|images|imgs|split)$")


def split_of(name: str) -> str | None:
    """The split that a folder's name stands for: train, val, test, or None for a name of something else.

    Case, separators, numbers and words such as `set`, `data` and `images` do not matter: `Train`, `hold-out`,
    `val_set`, `testing images`, `01_trainset`.
    """
    words = [word for word in re.split(r"[\W_\d]+", name.casefold()) if word and word not in _FILLERS]
    word = "".join(words)
    for candidate in (word, _GLUED.sub("", word)):
        for split, names in _NAMES.items():
            if candidate in names:
                return split
    return None


def choose(walk: Walk, folders: Sequence[str], classes: Sequence[str] | None, strict: bool) -> dict[str, str]:
    """Split → name of its folder; empty where the folders are classes.

    Args:
        walk: of the root.
        folders: names of the folders in it.
        classes: those that were asked for; if all of them are in `folders`, they are classes.
        strict: False takes what is not clear for classes.

    Raises:
        DataError: folders that look like splits but could be meant in two ways.
    """
    # data.classes settles it: a class may well be called "test"
    if classes and set(classes) <= set(folders):
        return {}
    named = {name: split for name in folders if (split := split_of(name))} or _decorated(walk, folders, strict)
    if not named:
        _note_alike(walk, folders)
        return {}
    inner = {name: set(walk.subfolders(name)) for name in named}
    layered = [name for name in named if inner[name]]  # a split holds class folders; a class holds images
    others = [name for name in folders if name not in named]
    by_split = {split: [name for name in layered if named[name] == split] for split in SPLITS}
    if not layered:
        if strict and len(set(named.values())) > 1 and not others:
            raise _ambiguous(walk, list(named), "hold images but no class folders")
        return {}
    doubled = any(len(names) > 1 for names in by_split.values())
    for split, names in by_split.items():
        if strict and len(names) > 1:
            raise _ambiguous(walk, names, f"are both named as {split}")
    if not strict and (doubled or not by_split["train"] or len(set(named.values())) == 1):
        return {}
    if "train" in named.values() and len(set(named.values())) > 1 and (by_split["train"] or not others):
        return _splits(walk.listing, named, inner, by_split)
    alike = {name for name in others if set(walk.subfolders(name)) & inner[layered[0]]}
    if not by_split["train"] or alike or inner[layered[0]] & set(others):
        raise _ambiguous(walk, [*layered, *sorted(alike)], "look like splits")
    if not others:
        raise _deeper(walk.root, layered[0], inner[layered[0]])
    return {}


def _decorated(walk: Walk, folders: Sequence[str], strict: bool) -> dict[str, str]:
    """Folder → split, where a word of each name is that of a split and all else is the same: `birds_train`, `val.v1`.

    Raises:
        DataError: such names that have other words apart, over the same folders: `trainA trainB testA testB`.
    """
    hinted: dict[str, str] = {}
    rests = set()
    for name in folders:
        words = [word for word in re.split(r"[\W_\d]+|(?<=[a-z])(?=[A-Z])", name) if word]
        meant = [split for word in words if (split := split_of(word))]
        if len(meant) == 1 and walk.subfolders(name):
            hinted[name] = meant[0]
            rests.add(tuple(word.casefold() for word in words if not split_of(word)))
    if {"train"} < set(hinted.values()) and set.intersection(*(set(walk.subfolders(name)) for name in hinted)):
        if len(rests) == 1:
            return hinted
        if strict:
            raise _ambiguous(walk, list(hinted), "look like splits")
    return {}


def _note_alike(walk: Walk, folders: Sequence[str]) -> None:
    """Say it where all classes hold the same folders, as splits would that are called otherwise, or folds."""
    inner = [frozenset(walk.subfolders(name)) for name in folders]
    if len(folders) > 1 and len(set(inner)) == 1 and len(inner[0]) > 1:
        walk.listing.notes.append(
            f"{_listed(folders)} each hold the folders {_listed(inner[0])} and are taken for the classes; if they are "
            "splits, name them train, val and test"
        )


def _splits(
    listing: Listing, named: dict[str, str], inner: dict[str, set[str]], by_split: dict[str, list[str]]
) -> dict[str, str]:
    """The folder of each split; a test folder without labels is left out, with a note."""
    train = next(iter([*by_split["train"], *(name for name, meant in named.items() if meant == "train")]))
    chosen = {"train": train}
    for split in ("val", "test"):
        names = by_split[split] or [name for name, meant in named.items() if meant == split]
        if not names:
            continue
        if split == "test" and _unlabelled(inner[names[0]], inner[train]):
            what = f"holds no classes of {visible(train)}/, so its images have no labels and are not used"
            listing.notes.append(f"{visible(names[0])}/ {what}")
        else:
            chosen[split] = names[0]
    return chosen


def _unlabelled(test: set[str], train: set[str]) -> bool:
    """Whether a test folder holds pictures without labels: loose ones, or all in one folder that is no class."""
    return not test or (len(test) == 1 < len(train) and not test & train)


def check_levels(listing: Listing) -> None:
    """Refuse class folders that hold splits or classes, where another level was probably meant.

    Raises:
        DataError: with the level that was probably meant.
    """
    for split, names in listing.folders.items():
        base = listing.bases.get(split, "")
        below: dict[str, set[str]] = {}
        for path, (label, part) in listing.samples.items():
            rest = path[len(join(base, label)) + 1 :].split("/") if part == split else []
            if len(rest) > 1:
                below.setdefault(label, set()).add(rest[0])
        for name, inner in below.items():
            level = join(base, name)
            splits = {meant for folder in inner if (meant := split_of(folder))}
            if {"train"} < splits:
                raise _deeper(listing.root, level, inner)
            if len(inner & set(names) - {name}) > 1:
                copies = f"holds folders that are named as the classes beside it: {_listed(inner & set(names))}"
                raise DataError(f"{visible(str(listing.root / level))}: {copies}", "remove one of the two copies")
        if split in ("", "train") and len(names) == 1:
            _check_nesting(listing, len(join(base, names[0]).split("/")))


def _check_nesting(listing: Listing, depth: int) -> None:
    """Refuse a single class, `depth` folders below the root, whose images all lie in folders of their own below it."""
    folders = [path.split("/")[:-1] for path, (_, split) in listing.samples.items() if split in ("", "train")]
    common = os.path.commonpath(["/".join(folder) for folder in folders]).split("/")
    inner = {"" if len(folder) == len(common) else folder[len(common)] for folder in folders}
    if len(common) >= depth and len(inner) > 1 and "" not in inner:
        raise _deeper(listing.root, "/".join(common), inner)


def _deeper(root: Path, level: str, inner: Iterable[str]) -> DataError:
    return DataError(
        f"{visible(str(root))}: its folder {visible(level)} holds {_listed(inner)}, which look like what was meant",
        f"name that level: {setting('data.folder', visible(str(root / level)))}",
    )


def _ambiguous(walk: Walk, names: Sequence[str], what: str) -> DataError:
    listed = _listed(names)
    return DataError(
        f"{visible(str(walk.root))}: {listed} {what}: not clear whether they are splits or classes",
        "name the splits train, val and test, each with one folder per class; if they are classes, say so: "
        f"{setting('data.classes', [visible(name) for name in sorted(names)])}",
    )


def _listed(names: Iterable[str], most: int = 6) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(visible(name) for name in ordered[:most]) + more

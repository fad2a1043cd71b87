"""What lies in a folder of images: which files are samples of which class and split."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from finetune.data import layout
from finetune.data.formats import is_sample
from finetune.data.walk import USUAL, Listing, Rules, Walk, join
from finetune.errors import DataError, did_you_mean
from finetune.files import visible


def list_folder(
    root: Path, classes: Sequence[str] | None = None, rules: Rules = USUAL, *, strict: bool = True
) -> Listing:
    """List the samples under `root`, in a split layout or one folder per class.

    A class takes the images of all folders below its own.

    Args:
        root: an existing folder.
        classes: only these class folders; None for all.
        rules: which files are images.
        strict: refuse folders that could be splits or classes; else they are classes.

    Raises:
        DataError: a name in `classes` is not there; folders that could be splits or classes.
        ResourceError: out of file descriptors.
    """
    walk = Walk(root, rules)
    listing = walk.listing
    top = walk.entries("")
    ours = [name for name, kind in top if kind == "folder" and walk.is_ours(name)]
    listing.ours += ours
    top = [(name, kind) for name, kind in top if name not in ours]
    names = [name for name, kind in top if kind == "folder" or (kind == "link" and walk.leads_to_folder("", name))]
    listing.bases = layout.choose(walk, names, classes, strict)
    if listing.split_layout:
        listing.unused = sorted(set(names) - set(listing.bases.values()))
        _loose(walk, [(name, kind) for name, kind in top if name not in names], "")
    per_split = {split: _class_folders(walk, base) for split, base in (listing.bases or {"": ""}).items()}
    wanted = _wanted(classes, set(per_split[next(iter(per_split))]), root)
    for split, folders in per_split.items():
        _classes(walk, split, folders, wanted)
    walk.follow_links()
    listing.samples = dict(sorted(listing.samples.items()))
    if classes is None and strict:
        layout.check_levels(listing)
    return listing


def _class_folders(walk: Walk, base: str) -> dict[str, str]:
    """Name → kind (folder or link) of the class folders of a split; the rest is noted."""
    if base and not walk.enter(base):
        return {}
    content = walk.entries(base)
    inside = {
        name: kind
        for name, kind in content
        if (kind == "folder" and not walk.is_ours(join(base, name)))
        or (kind == "link" and walk.note_class_link(join(base, name)))
    }
    _loose(walk, [item for item in content if item[0] not in inside], base)
    return inside


def _classes(walk: Walk, split: str, folders: dict[str, str], wanted: set[str] | None) -> None:
    """Walk the wanted class folders of a split; those that are links wait."""
    base = walk.listing.bases.get(split, "")
    chosen = [name for name in folders if wanted is None or name in wanted]
    walk.listing.folders[split] = chosen
    for name, kind in folders.items():
        if name not in chosen:
            walk.enter(join(base, name))  # a link elsewhere must not bring its images in again
        elif kind == "link":
            walk.links.append((join(base, name), name, split))
        else:
            walk.descend(join(base, name), name, split)


def _loose(walk: Walk, content: list[tuple[str, str]], folder: str) -> None:
    """Note what lies beside the class folders."""
    for name, kind in content:
        path = join(folder, name)
        if kind == "other":
            walk.listing.irregular.append(path)
        elif kind == "file" or (kind == "link" and os.path.isfile(walk.root / path)):
            sample = is_sample(walk.root / path, walk.rules.extensions)
            (walk.listing.outside if sample else walk.listing.others).append(path)
        elif kind == "folder" and path not in walk.listing.ours:
            walk.listing.ours.append(path)


def _wanted(classes: Sequence[str] | None, there: set[str], root: Path) -> set[str] | None:
    if classes is None:
        return None
    missing = [name for name in dict.fromkeys(classes) if name not in there]
    twice = sorted({name for name in classes if list(classes).count(name) > 1})
    problems = [
        f"data.classes: {visible(name)!r} is no class folder in {visible(str(root))}{_nearest(name, there)}"
        for name in missing
    ]
    problems += [f"data.classes: {visible(name)!r} is named twice" for name in twice]
    if problems:
        raise DataError(problems, f"the classes there are: {', '.join(visible(name) for name in sorted(there))}")
    return set(classes)


def _nearest(name: str, there: set[str]) -> str:
    composed = unicodedata.normalize("NFC", name)
    same = [other for other in sorted(there) if unicodedata.normalize("NFC", other) == composed]
    if same:
        return f" (the folder's name is written with other code points: {same[0]!a})"
    return did_you_mean(name, sorted(there))

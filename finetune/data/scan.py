"""One scan of a folder of images: every file read once, hashed and decoded, into one table."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from finetune.data.decode import Decoding, Facts, inspect, read
from finetune.data.formats import FORMAT_OF, NEEDS, suffix
from finetune.data.levels import UNIFORM, Range, find_range, grey_levels, is_deep
from finetune.data.listing import list_folder
from finetune.data.notes import count, listing_notes, named, note
from finetune.data.pillow import Heard, hearing
from finetune.data.scan_cache import ScanCache
from finetune.data.walk import Listing
from finetune.data.wanted import ALL, Wanted
from finetune.errors import BadImage, DataError, did_you_mean, setting
from finetune.files import cores, visible

COLUMNS = ("path", "class", "split", "sha256", "bytes", "width", "height", "mode")
"""Columns of the table, in order."""

_LAYOUT = "put the images into one folder per class (cats/1.jpg, dogs/1.jpg), or those into train/ and val/"


@dataclass(frozen=True)
class Scan:
    """The images of a folder, with what was left out and why.

    Attributes:
        root: the folder, absolute.
        table: one row per readable image, sorted by path; `COLUMNS`: path (posix, relative to root), class, split
            ('' or train/val/test), sha256, bytes, width and height (pixels, upright), mode (of the file, as Pillow
            names it).
        classes: the classes in order; of a split layout those of train/. A class may have no rows.
        split_layout: whether the folder is split already, see `finetune.data.layout`.
        notes: what is worth knowing, a line each.
        bad: (path, reason) of each file that could not be used, sorted by path.
        folders: split → names of its class folders, empty ones included.
        bases: split → name of its folder.
        range: the numbers that are black and white in images of more than 8 bits; None where there are none.
        uniform: images of which next to nothing is left once they are scaled to 8 bits.
    """

    root: Path
    table: pd.DataFrame
    classes: list[str]
    split_layout: bool
    notes: list[str]
    bad: list[tuple[str, str]]
    folders: dict[str, list[str]] = field(default_factory=dict)
    bases: dict[str, str] = field(default_factory=dict)
    range: Range = None
    uniform: list[str] = field(default_factory=list)


def scan(
    folder: Path,
    wanted: Wanted = ALL,
    tick: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> Scan:
    """Read every image of a folder once: its hash, its size, and whether it decodes to the end.

    Whether the classes make sense is evaluated by `finetune.data.audit`, on the result.

    Args:
        folder: class folders, or split folders with class folders each.
        wanted: which images; with `on_bad` "stop", any unreadable file raises, with "skip" they are in `Scan.bad`.
        tick: called as `tick(done, total)` after each image, in the calling thread; may raise to end the scan.
        workers: threads; None for one per core, at most 8.

    Raises:
        DataError: no such folder, no images, an unknown class, or unreadable files (all of them, one line each).
        ResourceError: out of memory or file descriptors.
    """
    root = _require_folder(folder)
    listing = list_folder(root, wanted.classes, wanted.rules)
    with hearing() as heard:
        results = _inspect_all(root, list(listing.samples), wanted.decoding, heard, tick, workers)
    refused = [(path, result) for path, result in results.items() if isinstance(result, str)]
    bad = sorted([*listing.bad, *refused])
    if bad and wanted.on_bad == "stop":
        raise _unreadable(root, bad)
    images = {path: result for path, result in results.items() if not isinstance(result, str)}
    if not images:
        raise no_images(root, listing, bad)
    black_white = _range(images, wanted)  # one for the whole set: see `finetune.data.levels`
    return Scan(
        root,
        _table(listing, images),
        list(wanted.classes) if wanted.classes is not None else listing.classes,
        listing.split_layout,
        [*listing_notes(listing), *_image_notes(images, black_white), *heard.lines(), *_unused_range(images, wanted)],
        bad,
        listing.folders,
        listing.bases,
        black_white,
        [path for path, image in images.items() if _grey_levels(image.facts, black_white) < UNIFORM],
    )


def _range(images: dict[str, _Image], wanted: Wanted) -> Range:
    """The numbers that are black and white in images of more than 8 bits; None where there are none."""
    deep = [image.facts for image in images.values() if is_deep(image.facts.mode)]
    if wanted.range != "auto":
        return wanted.range
    if not deep:
        return None
    return find_range([facts.numbers for facts in deep], any(facts.mode == "F" for facts in deep))


def _grey_levels(facts: Facts, black_white: Range) -> float:
    return grey_levels(facts.numbers, is_deep(facts.mode), black_white, facts.mode)


def _unused_range(images: dict[str, _Image], wanted: Wanted) -> list[str]:
    unused = isinstance(wanted.range, tuple) and not any(is_deep(image.facts.mode) for image in images.values())
    return ["data.range is not used: all images have 8 bits, 0 is black and 255 white"] if unused else []


def range_text(black_white: Range) -> str:
    """The range from black to white, in words."""
    if isinstance(black_white, tuple):
        return f"{black_white[0]:g} is black, {black_white[1]:g} is white"
    return "black and white are what the type can hold" if black_white == "dtype" else "each by its own range"


@dataclass(frozen=True)
class _Image:
    sha256: str
    size: int
    facts: Facts


def _inspect_all(
    root: Path,
    paths: list[str],
    decoding: Decoding,
    heard: Heard,
    tick: Callable[[int, int], None] | None,
    workers: int | None,
) -> dict[str, _Image | str]:
    """Path → what is there, or why it cannot be used."""
    known = ScanCache(root, decoding)
    pool = ThreadPoolExecutor(max(1, min(cores(), 8) if workers is None else workers), thread_name_prefix="scan")
    results: dict[str, _Image | str] = {}

    def look(path: str) -> _Image | str:
        with heard.about(path):
            return _inspect(root / path, known, decoding)

    try:
        # in the order of the paths, however the threads run: notes and errors name the same files each time
        for path, result in zip(paths, pool.map(look, paths), strict=True):
            results[path] = result
            if tick is not None:
                tick(len(results), len(paths))
    finally:
        pool.shutdown(cancel_futures=True)
    known.keep({image.sha256: image.facts for image in results.values() if isinstance(image, _Image)})
    return results


def _inspect(path: Path, cache: ScanCache, decoding: Decoding) -> _Image | str:
    try:
        data = read(path)
        sha256 = hashlib.sha256(data).hexdigest()
        return _Image(sha256, len(data), cache.get(sha256) or inspect(data, decoding))
    except BadImage as error:
        return error.problems[0]


def _table(listing: Listing, images: dict[str, _Image]) -> pd.DataFrame:
    rows = [
        (path, *listing.samples[path], image.sha256, image.size, facts.width, facts.height, facts.mode)
        for path, image in sorted(images.items())
        if (facts := image.facts)
    ]
    types: dict[str, Any] = dict.fromkeys(COLUMNS, object)  # pandas' own text type refuses names that are not UTF-8
    types.update(dict.fromkeys(("bytes", "width", "height"), "int64"))
    columns = zip(COLUMNS, zip(*rows, strict=True), strict=True)
    return pd.DataFrame({name: pd.Series(list(values), dtype=types[name]) for name, values in columns})


# --- refusals and notes ----------------------------------------------------------------------------------------------


def _require_folder(folder: Path) -> Path:
    root = Path(os.path.abspath(os.path.expanduser(folder)))
    if root.is_dir():
        return root
    name = visible(str(folder))
    if root.exists():
        raise DataError(f"{name}: a file, not a folder of images", _LAYOUT)
    beside = [path.name for path in root.parent.iterdir() if path.is_dir()] if os.access(root.parent, os.R_OK) else []
    raise DataError(f"{name}: no such folder{visible(did_you_mean(root.name, beside))}", "give a folder that exists")


def _unreadable(root: Path, bad: list[tuple[str, str]]) -> DataError:
    """All files that cannot be used, a line each; those that only lack a plugin in one line."""
    lines = [f"{visible(str(root / path))}: {reason}" for path, reason in bad if reason not in NEEDS.values()]
    for reason in NEEDS.values():
        if lacking := [path for path, why in bad if why == reason]:
            lines.append(f"{visible(str(root))}: {count(len(lacking), 'image')} ({named(lacking)}): {reason}")
    return DataError(lines, f"fix or remove these files, or leave them out with {setting('data.on_bad', 'skip')}")


def no_images(root: Path, listing: Listing, bad: list[tuple[str, str]]) -> DataError:
    """The error for a folder without usable images."""
    name = visible(str(root))
    if bad:
        return DataError(f"{name}: no readable image among its {count(len(bad), 'image')}", "give another folder")
    if listing.outside:
        problem = f"{name}: its {count(len(listing.outside), 'image')} lie directly in it, outside any class folder"
        return DataError(problem, _LAYOUT)
    hint = f" ({named(listing.others)} not counted)" if listing.others else ""
    return DataError(f"{name}: no images in class folders{hint}", _LAYOUT)


def _image_notes(images: dict[str, _Image], black_white: Range) -> list[str]:
    """Notes on images that are unusual."""
    facts = {path: image.facts for path, image in images.items()}
    animated = [path for path, fact in facts.items() if fact.animated]
    misnamed = [path for path, fact in facts.items() if fact.format != FORMAT_OF.get(suffix(path), fact.format)]
    deep = [path for path, fact in facts.items() if is_deep(fact.mode)]
    cut = [path for path, fact in facts.items() if fact.bits > 8 and not is_deep(fact.mode)]
    lines = []
    if animated:
        lines.append(note(animated, "has several frames: the first counts", "have several frames: the first counts"))
    if misnamed:
        what = "has another format than its name says"
        lines.append(note(misnamed, what, "have another format than their names say"))
    if deep:
        lines.append(f"{count(len(deep), 'image')} of more than 8 bits: {range_text(black_white)} (data.range)")
    if cut:
        what = "16-bit colours, of which the upper 8 bits are used"
        lines.append(note(cut, f"has {what}", f"have {what}"))
    return lines

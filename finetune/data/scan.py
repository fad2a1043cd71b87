"""One scan of a folder of images: every file read once, hashed and decoded, into one table."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from finetune.data.decode import Facts, inspect, read
from finetune.data.known import Known
from finetune.data.listing import Listing, is_image_name, list_folder
from finetune.device import cores
from finetune.errors import BadImage, DataError, did_you_mean
from finetune.files import visible

COLUMNS = ("path", "class", "split", "sha256", "bytes", "width", "height", "mode")
"""Columns of the table, in order."""

_LAYOUT = "put the images into one folder per class (cats/1.jpg, dogs/1.jpg), or those into train/ and val/"
_FORMAT_OF = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".ppm": "PPM",
    ".pgm": "PPM",
}


@dataclass(frozen=True)
class Scan:
    """What a folder of images holds.

    Attributes:
        root: the folder, absolute.
        table: one row per readable image, sorted by path; `COLUMNS`: path (posix, relative to root), class, split
            ('' or train/val/test), sha256, bytes, width and height (pixels, upright), mode (of the file, as Pillow
            names it).
        classes: the classes in order; of a split layout those of train/. A class may have no rows.
        split_layout: whether the folder has train/ and val/.
        notes: what is worth knowing, a line each.
        bad: (path, reason) of each file that could not be used, sorted by path.
        folders: split → names of its class folders, empty ones included.
    """

    root: Path
    table: pd.DataFrame
    classes: list[str]
    split_layout: bool
    notes: list[str]
    bad: list[tuple[str, str]]
    folders: dict[str, list[str]] = field(default_factory=dict)


def scan(
    folder: Path,
    classes: Sequence[str] | None = None,
    on_bad: Literal["stop", "skip"] = "stop",
    tick: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> Scan:
    """Read every image of a folder once: its hash, its size, and whether it decodes to the end.

    Whether the classes make sense is judged by `finetune.data.audit`, on the result.

    Args:
        folder: class folders, or train/ and val/ (and test/) with class folders each.
        classes: only these, in this order; None for all, sorted by name.
        on_bad: "stop" raises if any file is unreadable; "skip" lists such files in `Scan.bad`.
        tick: called as `tick(done, total)` after each image, in the calling thread; may raise to end the scan.
        workers: threads; None for one per core, at most 8.

    Raises:
        DataError: no such folder, no images, an unknown class, or unreadable files (all of them, one line each).
        ResourceError: out of memory or file descriptors.
    """
    root = _require_folder(folder)
    listing = list_folder(root, classes)
    found = _inspect_all(root, list(listing.samples), tick, workers)
    refused = [(path, result) for path, result in found.items() if isinstance(result, str)]
    bad = sorted([*listing.bad, *refused])
    if bad and on_bad == "stop":
        problems = [f"{visible(str(root / path))}: {reason}" for path, reason in bad]
        raise DataError(problems, "mend or remove these files, or go on without them: data.on_bad: skip")
    images = {path: result for path, result in found.items() if not isinstance(result, str)}
    if not images:
        raise _no_images(root, listing, bad)
    order = list(classes) if classes is not None else listing.classes
    notes = [*_listing_notes(listing), *_image_notes(images)]
    return Scan(root, _table(listing, images), order, listing.split_layout, notes, bad, listing.folders)


@dataclass(frozen=True)
class _Image:
    sha256: str
    size: int
    facts: Facts


def _inspect_all(
    root: Path, paths: list[str], tick: Callable[[int, int], None] | None, workers: int | None
) -> dict[str, _Image | str]:
    """Path → what is there, or why it cannot be used."""
    known = Known(root)
    pool = ThreadPoolExecutor(max(1, min(cores(), 8) if workers is None else workers), thread_name_prefix="scan")
    found: dict[str, _Image | str] = {}
    try:
        for path, result in zip(paths, pool.map(lambda path: _inspect(root / path, known), paths), strict=True):
            found[path] = result
            if tick is not None:
                tick(len(found), len(paths))
    finally:
        pool.shutdown(cancel_futures=True)
    known.keep({image.sha256: image.facts for image in found.values() if isinstance(image, _Image)})
    return found


def _inspect(path: Path, known: Known) -> _Image | str:
    try:
        data = read(path)
        sha256 = hashlib.sha256(data).hexdigest()
        return _Image(sha256, len(data), known.get(sha256) or inspect(data))
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


def _no_images(root: Path, listing: Listing, bad: list[tuple[str, str]]) -> DataError:
    name = visible(str(root))
    if bad:
        return DataError(f"{name}: no readable image among its {_count(len(bad), 'image')}", "give another folder")
    if listing.outside:
        problem = f"{name}: its {_count(len(listing.outside), 'image')} lie beside the class folders, none in one"
        return DataError(problem, _LAYOUT)
    hint = f" ({_named(listing.others)} not counted)" if listing.others else ""
    return DataError(f"{name}: no images in class folders{hint}", _LAYOUT)


def _listing_notes(listing: Listing) -> list[str]:
    notes = [
        (listing.others, "is not a sample", "are not samples"),
        (listing.outside, "lies in no class folder and is not used", "lie in no class folder and are not used"),
        (listing.irregular, "is not a regular file and was skipped", "are not regular files and were skipped"),
        (listing.repeated, "is a link to what is counted already", "are links to what is counted already"),
        (listing.unused, "beside train/ and val/ is not used", "beside train/ and val/ are not used"),
    ]
    lines = [_note(paths, one, many) for paths, one, many in notes if paths]
    half = {"train", "val", "valid", "validation", "test"} & set(listing.folders.get("", []))
    if half:
        lines.append(
            f"{', '.join(sorted(half))}: taken as the name of a class; a folder that is split has both train/ and val/"
        )
    return lines


def _image_notes(images: dict[str, _Image]) -> list[str]:
    animated = [path for path, image in images.items() if image.facts.animated]
    misnamed = [path for path, image in images.items() if image.facts.format != _FORMAT_OF[_suffix(path)]]
    lines = []
    if animated:
        lines.append(_note(animated, "has several frames: the first counts", "have several frames: the first counts"))
    if misnamed:
        what = "has another format than its name says"
        lines.append(_note(misnamed, what, "have another format than their names say"))
    return lines


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _note(paths: list[str], one: str, many: str) -> str:
    kind = "image" if all(is_image_name(path) for path in paths) else "file"
    return f"{_count(len(paths), kind)} {one if len(paths) == 1 else many}: {_named(paths)}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _named(paths: list[str], most: int = 5) -> str:
    more = f" and {len(paths) - most:,} more" if len(paths) > most else ""
    return ", ".join(visible(path) for path in sorted(paths)[:most]) + more

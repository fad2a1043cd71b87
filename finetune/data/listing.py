"""What lies in a folder of images: which files are samples of which class. Nothing is opened here."""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from finetune.errors import DataError, did_you_mean, from_os_error
from finetune.files import visible

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
"""File name endings of samples, in lower case."""

SPLITS = ("train", "val", "test")
"""The splits, and their folders in a split layout."""

_SYSTEM = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "__pycache__", "@eadir"})

_NOWHERE = "link to nothing"


@dataclass
class Listing:
    """The files of a folder, sorted into samples and the rest; all paths posix, relative to the root.

    Attributes:
        samples: path → (class, split); the split is "" where the folder is not split.
        folders: split → names of its class folders, those without images included.
        outside: images that lie in no class folder.
        others: files that are no images by their name.
        irregular: FIFOs, sockets and devices.
        repeated: links to what is listed anyway.
        unused: folders beside train/, val/ and test/.
        bad: (path, reason) of links that lead nowhere or out of the root, and of folders that cannot be read.
    """

    root: Path
    split_layout: bool = False
    samples: dict[str, tuple[str, str]] = field(default_factory=dict)
    folders: dict[str, list[str]] = field(default_factory=dict)
    outside: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    irregular: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        """The names of the class folders, of a split layout those of train/, sorted."""
        return sorted(self.folders["train" if self.split_layout else ""])


def is_hidden(name: str) -> bool:
    """Whether a file or folder belongs to the system (`.DS_Store`, `Thumbs.db`, `__MACOSX`, …) and is no data."""
    return name.startswith(".") or name.lower() in _SYSTEM


def is_image_name(name: str) -> bool:
    """Whether a file name ends as a sample's does, in any case."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def list_folder(root: Path, classes: Sequence[str] | None = None) -> Listing:
    """List the samples under `root`, in a split layout or one folder per class.

    A class takes the images of all folders below its own. Links are followed inside the root only, after everything
    else, so that each image is listed once, under its real name where it has one in a class folder.

    Args:
        root: an existing folder.
        classes: only these class folders; None for all.

    Raises:
        DataError: a name in `classes` is not there.
        ResourceError: out of file descriptors.
    """
    walk = _Walk(root)
    found = walk.listing
    top = walk.entries("")
    names = {name for name, kind in top if kind == "folder" or (kind == "link" and os.path.isdir(root / name))}
    found.split_layout = {"train", "val"} <= names
    bases = [split for split in SPLITS if split in names] if found.split_layout else [""]
    if found.split_layout:
        found.unused = sorted(names - set(SPLITS))
        walk.loose([(name, kind) for name, kind in top if name not in names], "")
    per_split = {base: walk.class_folders(base) for base in bases}
    wanted = _wanted(classes, set(per_split[bases[0]]), root)
    for base, folders in per_split.items():
        walk.classes(base, folders, wanted)
    walk.follow_links()
    found.samples = dict(sorted(found.samples.items()))
    return found


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


@dataclass(frozen=True)
class _Target:
    """Where a path leads: its real path, whether that is a folder, and why it cannot be followed ("" if it can)."""

    real: str
    is_folder: bool
    trouble: str


class _Walk:
    """One walk through a folder: real files and folders at once, links when all of those are known."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.real_root = os.path.realpath(root)
        self.listing = Listing(root)
        self.real_files: set[str] = set()
        self.real_folders: set[str] = {self.real_root}
        self.links: list[tuple[str, str, str]] = []  # path, class, split

    def entries(self, path: str) -> list[tuple[str, str]]:
        """(name, kind) of what is in a folder, hidden things left out; kind: folder, file, link or other."""
        try:
            with os.scandir(self.root / path) as scan:
                return sorted((entry.name, _kind(entry)) for entry in scan if not is_hidden(entry.name))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise from_os_error(error, visible(str(self.root / path)), "list") from error
            code = errno.errorcode.get(error.errno or 0, "OSError")
            self.listing.bad.append((path or ".", f"folder cannot be listed: {error.strerror or error} [{code}]"))
            return []

    def class_folders(self, split: str) -> dict[str, str]:
        """Name → kind (folder or link) of the class folders of a split; the rest is noted."""
        if split and not self.enter(split):
            return {}
        content = self.entries(split)
        inside = {
            name: kind
            for name, kind in content
            if kind == "folder" or (kind == "link" and self._is_class(_join(split, name)))
        }
        self.loose([item for item in content if item[0] not in inside], split)
        return inside

    def classes(self, split: str, folders: dict[str, str], wanted: set[str] | None) -> None:
        """Walk the wanted class folders of a split; those that are links wait."""
        chosen = [name for name in folders if wanted is None or name in wanted]
        self.listing.folders[split] = chosen
        for name, kind in folders.items():
            if name not in chosen:
                self.enter(_join(split, name))  # a link elsewhere must not bring its images in again
            elif kind == "link":
                self.links.append((_join(split, name), name, split))
            else:
                self.descend(_join(split, name), name, split)

    def descend(self, folder: str, label: str, split: str) -> None:
        """List all files below a folder as samples of class `label`."""
        stack = [folder]
        while stack:
            path = stack.pop()
            if not self.enter(path):
                continue
            real = os.path.realpath(self.root / path)
            for name, kind in self.entries(path):
                inner = _join(path, name)
                if kind == "folder":
                    stack.append(inner)
                elif kind == "link":
                    self.links.append((inner, label, split))
                elif kind == "file" and is_image_name(name):
                    self.real_files.add(os.path.join(real, name))
                    self.listing.samples[inner] = (label, split)
                else:
                    (self.listing.others if kind == "file" else self.listing.irregular).append(inner)

    def loose(self, content: list[tuple[str, str]], folder: str) -> None:
        """Note what lies beside the class folders."""
        for name, kind in content:
            path = _join(folder, name)
            if kind == "other":
                self.listing.irregular.append(path)
            elif is_image_name(name):
                self.listing.outside.append(path)
            elif kind == "file":
                self.listing.others.append(path)

    def follow_links(self) -> None:
        """Take in what links lead to, where it lies inside the root and is not listed yet."""
        while self.links:
            waiting, self.links = sorted(self.links), []
            for path, label, split in waiting:
                self._follow(path, label, split)

    def _follow(self, path: str, label: str, split: str) -> None:
        target = self._resolve(path)
        if target.trouble:
            if target.is_folder or is_image_name(path):
                self.listing.bad.append((path, target.trouble))
        elif target.real in self.real_folders or target.real in self.real_files:
            self.listing.repeated.append(path)
            if path == _join(split, label):
                self.listing.folders[split].remove(label)
        elif target.is_folder:
            self.descend(path, label, split)
        elif not os.path.isfile(target.real):
            self.listing.irregular.append(path)
        elif is_image_name(path):
            self.real_files.add(target.real)
            self.listing.samples[path] = (label, split)
        else:
            self.listing.others.append(path)

    def _is_class(self, path: str) -> bool:
        """Whether a link beside the class folders stands for one; a broken one might have, so it is bad."""
        target = self._resolve(path)
        if target.trouble and (target.is_folder or target.trouble == _NOWHERE) and not is_image_name(path):
            self.listing.bad.append((path, target.trouble))
        return target.is_folder and not target.trouble and target.real not in self.real_folders

    def enter(self, path: str) -> bool:
        """Mark a folder as walked; False where it was already, or where a link leads out of the root."""
        target = self._resolve(path)
        if target.trouble:
            self.listing.bad.append((path, target.trouble))
            return False
        new = target.real not in self.real_folders
        self.real_folders.add(target.real)
        return new

    def _resolve(self, path: str) -> _Target:
        real = os.path.realpath(self.root / path)
        try:
            is_folder = stat.S_ISDIR(os.stat(self.root / path).st_mode)
        except OSError as error:
            return _Target(real, False, "link in a circle" if error.errno == errno.ELOOP else _NOWHERE)
        inside = real == self.real_root or real.startswith(os.path.join(self.real_root, ""))
        return _Target(real, is_folder, "" if inside else f"link out of the folder (to {visible(real)})")


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "link"
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    return "file" if entry.is_file(follow_symlinks=False) else "other"


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name

"""A walk through a folder of images: which files are samples, where links lead, and what is not data at all.

Scanning a data set and finding the images that `predict` is given are the same walk, so that both see the same files.
Real files and folders come first and links after them, so each image is found once, under its real name where it has
one. Nothing of ours is data: a run folder is known by its files and never entered.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from finetune.data.formats import is_hidden, is_image_name, is_sample
from finetune.errors import from_os_error
from finetune.files import visible

_NOWHERE = "link to nothing"
_RUN = ("run.json", "recipe.yaml")  # spelled again: the scan comes before the room of runs
RUNS_DEPTH = 3
"""Folders below each other in which runs lie: runs/NAME/001."""


@dataclass(frozen=True)
class Rules:
    """Which files below a folder are images.

    Attributes:
        links: "follow" those that lead to files and folders inside the root, or of the same owner; or "refuse" all.
        extensions: the endings of samples with their dots in lower case; None: the usual ones, else the content.
    """

    links: Literal["follow", "refuse"] = "follow"
    extensions: tuple[str, ...] | None = None


USUAL = Rules()


@dataclass
class Listing:
    """The files of a folder, sorted into samples and the rest; all paths posix, relative to the root.

    Attributes:
        samples: path → (class, split); the split is "" where the folder is not split.
        folders: split → names of its class folders, those without images included.
        bases: split → name of its folder; empty where the folder is not split.
        outside: images that lie in no class folder.
        others: files that are no images.
        irregular: FIFOs, sockets and devices.
        repeated: links to what is listed anyway, or in a circle.
        followed: links out of the root that were followed.
        unused: folders beside those of the splits.
        unlabelled: images of a test folder without classes.
        ours: run folders of this tool.
        bad: (path, reason) of links that cannot be followed, and of folders that cannot be read.
        notes: what else is worth knowing.
    """

    root: Path
    samples: dict[str, tuple[str, str]] = field(default_factory=dict)
    folders: dict[str, list[str]] = field(default_factory=dict)
    bases: dict[str, str] = field(default_factory=dict)
    outside: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    irregular: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    followed: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    ours: list[str] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def split_layout(self) -> bool:
        """Whether the folder is split already, at least into train/ and another part."""
        return bool(self.bases)

    @property
    def classes(self) -> list[str]:
        """The names of the class folders, of a split layout those of train/, sorted."""
        return sorted(self.folders["train" if self.split_layout else ""])


@dataclass(frozen=True)
class _Target:
    """Where a path leads: its real path, whether that is a folder, and why it cannot be followed ("" if it can)."""

    real: str
    is_folder: bool
    trouble: str
    outside: bool = False


class Walk:
    """One walk through a folder.

    Args:
        root: an existing folder.
        rules: which files are images.
    """

    def __init__(self, root: Path, rules: Rules = USUAL) -> None:
        self.root = root
        self.rules = rules
        self.real_root = os.path.realpath(root)
        self.owners = {os.stat(root).st_uid, getattr(os, "geteuid", lambda: -1)()}
        self.listing = Listing(root)
        self.real_folders: set[str] = {self.real_root}  # entered, or not to be entered
        self.walked: set[str] = set()  # those whose files were found
        self.linked_files: set[str] = set()
        self.links: list[tuple[str, str, str]] = []  # path, class, split

    def entries(self, path: str) -> list[tuple[str, str]]:
        """(name, kind) of what is in a folder, hidden things left out; kind: folder, file, link or other."""
        try:
            with os.scandir(self.root / path) as scan:
                return sorted((entry.name, _kind(entry)) for entry in scan if not is_hidden(entry.name))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # too many open files: the folder is not to blame
                raise from_os_error(error, visible(str(self.root / path)), "list") from error
            code = errno.errorcode.get(error.errno or 0, "OSError")
            problem = (path or ".", f"folder cannot be listed: {error.strerror or error} [{code}]")
            self.listing.bad += [] if problem in self.listing.bad else [problem]
            return []

    def subfolders(self, path: str) -> list[str]:
        """Names of the folders in a folder, those behind links that can be followed included, our runs left out."""
        content = self.entries(path)
        names = [
            name for name, kind in content if kind == "folder" or (kind == "link" and self.leads_to_folder(path, name))
        ]
        return [name for name in names if not self.is_ours(join(path, name))]

    def leads_to_folder(self, path: str, name: str) -> bool:
        """Whether a link leads to a folder that may be entered."""
        target = self._resolve(join(path, name))
        return target.is_folder and not target.trouble

    def is_ours(self, path: str, depth: int = RUNS_DEPTH) -> bool:
        """Whether a folder is one of our runs, or holds nothing but runs (as `runs/` and `runs/NAME/` do)."""
        here = self.root / path
        if all((here / name).is_file() for name in _RUN) or (
            (here / "run.json").is_file() and (here / ".lock").is_file()
        ):
            return True
        if depth == 0 or here.is_symlink():  # a link may lead in a circle
            return False
        folders = []
        with suppress(OSError), os.scandir(here) as scan:
            for entry in scan:  # a class folder is left at its first image
                if not is_hidden(entry.name) and not entry.is_dir(follow_symlinks=False):
                    return False
                folders += [] if is_hidden(entry.name) else [entry.name]
        return bool(folders) and all(self.is_ours(join(path, name), depth - 1) for name in folders)

    def descend(self, folder: str, label: str, split: str) -> None:
        """List all files below a folder as samples of class `label`; links wait until all real files are known."""
        for path in self.below(folder, label, split):
            self.listing.samples[path] = (label, split)

    def below(self, folder: str, label: str = "", split: str = "") -> Iterator[str]:
        """The real samples below a folder, in the order of their paths, found as they are asked for."""
        if folder and not self.enter(folder):
            return
        content = self.entries(folder)
        if folder and {name for name, _ in content}.issuperset(_RUN):
            self.listing.ours.append(folder)
            return
        self.walked.add(os.path.realpath(self.root / folder))
        for name, kind in content:
            path = join(folder, name)
            if kind == "folder" and path not in self.listing.ours:
                yield from self.below(path, label, split)
            elif kind == "link":
                self.links.append((path, label, split))
            elif kind == "file" and self._is_sample(path):
                yield path
            elif kind != "folder":
                (self.listing.others if kind == "file" else self.listing.irregular).append(path)

    def follow_links(self) -> None:
        """List as samples what links lead to, where they may be followed and it is not listed yet."""
        for path, label, split in self.linked():
            self.listing.samples[path] = (label, split)

    def linked(self) -> Iterator[tuple[str, str, str]]:
        """(path, class, split) of what the links that wait lead to."""
        while self.links:  # what a link leads to may hold further links
            waiting, self.links = sorted(self.links), []
            for path, label, split in waiting:
                yield from ((found, label, split) for found in self._follow(path, label, split))

    def enter(self, path: str) -> bool:
        """Mark a folder as walked; False where it was already, or where a link must not be followed."""
        target = self._resolve(path)
        if target.trouble:
            self.listing.bad.append((path, target.trouble))
            return False
        new = target.real not in self.real_folders
        self.real_folders.add(target.real)
        return new

    def note_class_link(self, path: str) -> bool:
        """Whether a link beside the class folders stands for one; one that cannot be followed might have: it is bad."""
        target = self._resolve(path)
        if target.trouble and (target.is_folder or target.trouble == _NOWHERE) and not is_image_name(path):
            self.listing.bad.append((path, target.trouble))
        return target.is_folder and not target.trouble and target.real not in self.real_folders

    def _follow(self, path: str, label: str, split: str) -> Iterator[str]:
        target = self._resolve(path)
        if target.trouble:
            if target.is_folder or is_image_name(path):
                self.listing.bad.append((path, target.trouble))
            return
        if self._is_known(target):
            self.listing.repeated.append(path)
            if path == join(self.listing.bases.get(split, ""), label):
                self.listing.folders[split].remove(label)
            return
        if target.outside:
            self.listing.followed.append(path)
        if target.is_folder:
            yield from self.below(path, label, split)
        elif not os.path.isfile(target.real):
            self.listing.irregular.append(path)
        elif self._is_sample(path):
            self.linked_files.add(target.real)
            yield path
        else:
            self.listing.others.append(path)

    def _is_known(self, target: _Target) -> bool:
        """Whether what a link leads to has been found already, or lies above the root, so that it leads in a circle."""
        if target.is_folder:
            return target.real in self.real_folders or self.real_root.startswith(os.path.join(target.real, ""))
        return target.real in self.linked_files or os.path.dirname(target.real) in self.walked

    def _is_sample(self, path: str) -> bool:
        return is_sample(self.root / path, self.rules.extensions)

    def _resolve(self, path: str) -> _Target:
        """Where a path leads; a folder that was reached through a followed link is as good as the link."""
        real = os.path.realpath(self.root / path)
        try:
            status = os.stat(self.root / path)
        except OSError as error:
            return _Target(real, False, "link in a circle" if error.errno == errno.ELOOP else _NOWHERE)
        is_folder = stat.S_ISDIR(status.st_mode)
        inside = real == self.real_root or real.startswith(os.path.join(self.real_root, ""))
        if self.rules.links == "refuse" and real != os.path.join(self.real_root, *path.split("/")):
            return _Target(real, is_folder, f"link (to {visible(real)}); data.links is refuse", not inside)
        # a link planted in a shared folder could otherwise bring another user's private pictures into a data set
        if not inside and status.st_uid not in self.owners:
            return _Target(real, is_folder, f"link out of the folder, to another owner's {visible(real)}", True)
        return _Target(real, is_folder, "", not inside)


def join(folder: str, name: str) -> str:
    """A path below a folder, posix, "" being the root."""
    return f"{folder}/{name}" if folder else name


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "link"
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    return "file" if entry.is_file(follow_symlinks=False) else "other"

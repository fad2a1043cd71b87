"""Files that are not written in one step: one that grows line by line, copied and moved ones, and what was left."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from finetune.errors import from_os_error
from finetune.files import TEMPORARY, fsync_folder, make_folder

NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP)
"""How systems say that a file cannot have another name there."""


@contextlib.contextmanager
def growing(path: Path) -> Iterator[BinaryIO]:
    """A file that grows by whole lines; what a crash left of a last line is cut off first.

    Whoever writes a line flushes it, so that another process can follow; left without error, all is on the disk.

    Raises:
        ResourceError: it cannot be written; what was written stays.
    """
    try:
        make_folder(path.parent)
        with open(path, "ab+") as file:
            end = file.seek(0, os.SEEK_END)
            while end and (file.seek(end - 1), file.read(1))[1] != b"\n":
                end -= 1
            file.truncate(end)
            yield file
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise from_os_error(error, path, "write") from error


def place_copy(source: Path, target: Path) -> bool:
    """Copy a file to a name that is free; False where the name is taken. Whole or not at all, and nothing is replaced.

    Raises:
        ResourceError: it cannot be written.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        make_folder(target.parent)
        if os.path.lexists(target):
            return False
        try:
            shutil.copy2(source, temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            return _named(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise from_os_error(error, target, "write") from error


def place_moved(source: Path, target: Path) -> bool:
    """Move a file to a name that is free; False where the name is taken. It is never gone, and nothing is replaced.

    Raises:
        ResourceError: it cannot be moved.
    """
    try:
        make_folder(target.parent)
        if os.path.lexists(target):
            return False
        try:
            done = _named(source, target)
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
            done = place_copy(source, target)  # to another file system
        if done:
            source.unlink()
        return done
    except OSError as error:
        raise from_os_error(error, source, "move") from error


def replace_folder(ready: Path, folder: Path) -> None:
    """Give a finished folder its name, in place of what has that name already, which is removed then."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        if folder.exists():
            os.replace(folder, old)
        os.replace(ready, folder)
        fsync_folder(folder.parent)
    except OSError as error:
        raise from_os_error(error, folder, "write") from error
    shutil.rmtree(old, ignore_errors=True)


def is_abandoned(temporary: Path, age: float) -> bool:
    """Whether a temporary file was left by a killed process: nobody holds its lock.

    Args:
        temporary: a file that `written` began.
        age: seconds for which nothing must have been written to it; an hour at least where there are no locks.
    """
    try:
        silent = time.time() - temporary.stat().st_mtime
        with open(temporary, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError:
                return silent >= max(age, 3600)
            return silent >= age
    except OSError:
        return False


def _named(file: Path, target: Path) -> bool:
    """Give a file another name unless that is taken: a link, which no other process can come before."""
    try:
        os.link(file, target)
    except FileExistsError:
        return False
    return True

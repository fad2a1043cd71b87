"""A sample's folder appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune.errors import UsageError, from_os_error
from finetune.files import TEMPORARY, fsync_folder


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A folder to write into, beside `folder`, which it becomes in one step at the end if nothing was raised.

    Raises:
        UsageError: `folder` is neither absent nor empty.
        ResourceError: it cannot be written.
    """
    folder = folder.absolute()
    remedy = "name another folder, absent or empty"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: there is something already; a sample goes into an absent or empty folder", remedy)
    if folder.exists() and folder.samefile(Path.cwd()):
        raise UsageError(f"{folder}: the working folder, which the finished sample cannot replace", remedy)
    half = folder.with_name(f".{folder.name}.{os.getpid()}{TEMPORARY}")
    try:
        yield half
        fsync_folder(half)
        half.rename(folder)  # replaces an empty folder, and fails if it is empty no longer
        fsync_folder(folder.parent)
    except OSError as error:
        raise from_os_error(error, folder, "write") from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(half)

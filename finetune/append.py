"""What is written otherwise than in one step: a file that grows by lines while work is done."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from finetune.errors import from_os_error
from finetune.files import make_folder


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

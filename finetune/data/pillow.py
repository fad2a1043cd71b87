"""Pillow's warnings while it decodes: caught, counted by kind, and reported with a file's name.

Pillow warns through Python's `warnings`, which print a line of Pillow's own source and no file name. A warning is
shown by whoever decodes many images, once a kind; a single picture is decoded in silence.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import PIL

from finetune.files import visible

_HOME = str(Path(PIL.__file__).parent)

# Where nobody listens, nothing is printed: the scan has said it, with the file's name.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Heard:
    """Warnings by kind, with the names of the files that they are about."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._files: dict[str, set[str]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def about(self, name: str) -> Iterator[None]:
        """Inside, warnings that this thread catches are counted for the file `name`."""
        self._local.name = name
        try:
            yield
        finally:
            self._local.name = ""

    def add(self, message: str) -> None:
        """Note a warning of the calling thread."""
        name = getattr(self._local, "name", "")
        with self._lock:  # numbers differ from file to file: the kind is the text without them
            self._files.setdefault(re.sub(r"\d+", "#", message.strip()), set()).add(name)

    def lines(self) -> list[str]:
        """A line a kind: how many files, and one of them."""
        return [
            f"{len(files):,} image{'' if len(files) == 1 else 's'} with a warning of the decoder "
            f"({visible(kind)}), for instance {visible(min(files))}"
            for kind, files in sorted(self._files.items())
        ]


@contextmanager
def hearing() -> Iterator[Heard]:
    """Catch Pillow's warnings of all threads; those of others go where they went before."""
    heard = Heard()
    with warnings.catch_warnings():
        before = warnings.showwarning

        def show(message: Any, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
            if filename.startswith(_HOME):
                heard.add(str(message))
            else:
                before(message, category, filename, lineno, *rest)

        warnings.filterwarnings("always", module=r"PIL\.")
        warnings.showwarning = show  # type: ignore[assignment]  # its last two arguments are passed on
        yield heard

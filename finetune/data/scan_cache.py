"""A cache of scans: contents that were decoded before are only read and hashed again.

What is kept is filed under the content's sha256 and the version of the decoder, so that a file that changes in any way
is decoded again; unreadable files always are. Losing it costs a second's work.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import PIL

from finetune.data.decode import MAX_BYTES, Decoding, Facts
from finetune.data.levels import QUANTILES
from finetune.errors import FinetuneError
from finetune.files import cache_folder, read_json, write_json

WORTH = 200
"""New images from which on it is written down."""


class ScanCache:
    """The contents of one folder's images.

    Args:
        root: the folder, absolute; its path only names the file that this is kept in.
        decoding: its caps; what another cap let through is looked at again.
    """

    def __init__(self, root: Path, decoding: Decoding) -> None:
        name = hashlib.sha256(str(root).encode("utf-8", "surrogateescape")).hexdigest()
        self._path = cache_folder() / "scans" / f"{name}.json"
        self._version = {"format": 2, "pillow": PIL.__version__, "limits": [MAX_BYTES, decoding.max_megapixels]}
        self._facts: dict[str, Facts] = {}
        with suppress(FinetuneError, OSError, KeyError, TypeError, ValueError, AttributeError):  # as good as not there
            kept = read_json(self._path)
            if kept["version"] == self._version:
                self._facts = {str(sha256): _checked(values) for sha256, values in kept["images"].items()}

    def get(self, sha256: str) -> Facts | None:
        """The facts of a content that was decoded before; None if it must be decoded."""
        return self._facts.get(sha256)

    def keep(self, facts: dict[str, Facts]) -> None:
        """Write down what the folder holds now, if much of it is new; where that is not possible, nothing happens."""
        if len(facts.keys() - self._facts.keys()) < WORTH:
            return
        images = {sha256: list(asdict(values).values()) for sha256, values in facts.items()}
        with suppress(FinetuneError, OSError):
            write_json(self._path, {"version": self._version, "images": images})


def _checked(values: Any) -> Facts:
    width, height, mode, kind, animated, bits, numbers = values
    kinds = (width, int), (height, int), (mode, str), (kind, str), (animated, bool), (bits, int), (numbers, list)
    if not all(isinstance(value, expected) for value, expected in kinds) or len(numbers) != len(QUANTILES):
        raise TypeError("not what was written")
    return Facts(width, height, mode, kind, animated, bits, tuple(float(number) for number in numbers))

"""Small pictures of the images of a store, for the page; only what the store names is ever read."""

from __future__ import annotations

import io
from pathlib import Path

from finetune.data.decode import decode
from finetune.deliver.vectors.store import VectorStore
from finetune.errors import BadImage

SIDE = 160
"""Pixels of the longer side, at most."""


class Thumbnails:
    """By the sha256 of their files.

    Args:
        store: read once, so an image that is embedded later is not known.
    """

    def __init__(self, store: VectorStore) -> None:
        self._paths = {sha256: Path(path) for path, sha256 in store.contents().items()}

    def jpeg(self, sha256: str) -> bytes | None:
        """The bytes of a JPEG; None for an image that is not known, gone, or not readable any more."""
        path = self._paths.get(sha256)
        if path is None:
            return None
        try:
            image = decode(path, "RGB", draft=(SIDE, SIDE))
        except BadImage:
            return None
        image.thumbnail((SIDE, SIDE))
        memory = io.BytesIO()
        image.save(memory, "JPEG", quality=85)
        return memory.getvalue()

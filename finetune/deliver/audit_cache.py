"""A cache of the deep audit's features by content: a second audit of a folder takes seconds.

Kept in the cache folder, one file for a network with its preprocessing; losing it costs the time to look again.
"""

from __future__ import annotations

import hashlib
import io
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from finetune.data.preprocess import Preprocess
from finetune.errors import FinetuneError
from finetune.files import cache_folder, to_json, write_atomic
from finetune.model.bundle import plain_state
from finetune.model.network import Network
from finetune.model.weights import tensors_sha256

FORMAT = 1

Parts = tuple[np.ndarray, ...]
"""Of one image: features, thumbnail, sharpness, border."""


class AuditCache:
    """Features, thumbnails and borders of images seen before, by the sha256 of their files.

    Args:
        network: whose features they are; its weights are part of the key.
        preprocess: how the images were prepared.
    """

    def __init__(self, network: Network, preprocess: Preprocess) -> None:
        body = {
            name: tensor for name, tensor in network.module.state_dict().items() if not name.startswith(network.head)
        }
        key = [FORMAT, torch.__version__, network.architecture, preprocess.as_dict(), tensors_sha256(plain_state(body))]
        name = hashlib.sha256(to_json(key).encode()).hexdigest()
        self._path = cache_folder() / "audits" / f"{name}.npz"
        self._rows: dict[str, Parts] = {}
        with suppress(OSError, ValueError, KeyError), np.load(self._path, allow_pickle=False) as kept:
            columns = [kept[f"part{number}"] for number in range(4)]
            self._rows = dict(zip(kept["sha256"].tolist(), zip(*columns, strict=True), strict=True))

    def get(self, sha256: str) -> Parts | None:
        """The parts of a content seen before; None if it must be computed."""
        return self._rows.get(sha256)

    def add(self, sha256: str, parts: Parts) -> None:
        """Remember a content."""
        self._rows[sha256] = parts

    def keep(self) -> None:
        """Write down all that is known; where that is not possible, nothing happens."""
        memory = io.BytesIO()
        columns = {
            f"part{number}": np.stack(parts) for number, parts in enumerate(zip(*self._rows.values(), strict=True))
        }
        arrays: dict[str, Any] = {**columns, "sha256": np.array(list(self._rows))}
        np.savez(memory, **arrays)
        with suppress(FinetuneError, OSError):
            write_atomic(self._path, memory.getvalue())

"""The one no-grad loop: evaluation, prediction, embedding and caching all run networks through it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np
import torch

Batch = TypeVar("Batch")


def infer(
    forward: Callable[[Batch], torch.Tensor],
    batches: Iterable[tuple[np.ndarray, Batch]],
    tick: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Run `forward` over all batches without gradients; one row per image, in the order of their indices.

    Args:
        forward: from a batch to [B, classes], by a network that is in eval mode. A batch is pixels, uint8 [B, H, W, C],
            or what the frozen prefix has made of them.
        batches: indices int64 [B] and a batch, as `Images.batches` gives them; closed when this ends, however it ends.
        tick: called after each batch with the number of images done; it may raise to stop.

    Returns:
        float32 [N, classes]; [0, 0] if there was no batch.
    """
    indices: list[np.ndarray] = []
    outputs: list[np.ndarray] = []
    done = 0
    try:
        for index, batch in batches:
            # Only the network runs in inference mode: tensors made by the loader stay ordinary ones.
            with torch.inference_mode():
                outputs.append(forward(batch).to("cpu", torch.float32).numpy())
            indices.append(index)
            done += len(index)
            if tick is not None:
                tick(done)
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()
    if not outputs:
        return np.empty((0, 0), dtype=np.float32)
    return np.concatenate(outputs)[np.argsort(np.concatenate(indices), kind="stable")]

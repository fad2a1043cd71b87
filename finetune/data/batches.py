"""Batches of pixels from wherever the images are: their files, or memory."""

from __future__ import annotations

from finetune.data.dataset import ImageSet
from finetune.data.load import Images
from finetune.data.memory import MemoryImages
from finetune.data.preprocess import Preprocess

AnyImages = Images | MemoryImages
"""What gives batches of pixels."""


def load_images(images: ImageSet, preprocess: Preprocess, workers: int | None = None, keep: int = 0) -> AnyImages:
    """The images of a split as batches of what a network takes.

    Args:
        images: of one split.
        preprocess: what the network takes.
        workers: threads that read files; None for one a core.
        keep: bytes of decoded pictures that may stay in memory.
    """
    if images.pixels is not None:
        return MemoryImages(images, preprocess)
    return Images(images, preprocess, workers, keep)

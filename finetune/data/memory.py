"""Images that are in memory already: batches by indexing, random views of a whole batch at once."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import grid_sample

from finetune.data.augment import Augment
from finetune.data.preprocess import Preprocess

if TYPE_CHECKING:
    from finetune.data.dataset import ImageSet

STREAM = 3
"""Sets the random numbers of these views apart from those of other uses of the same seed."""


@dataclass(frozen=True)
class Motion:
    """How far a view may move the picture; nothing is ever mirrored, because a mirrored digit is another sign or none.

    Args:
        shift: greatest shift along each axis, as a share of the side.
        rotate: greatest rotation, in degrees, either way.
        scale: greatest change of size: by a factor in [1 - scale, 1 + scale].
    """

    shift: float
    rotate: float
    scale: float


MOTIONS = {"light": Motion(2 / 28, 10.0, 0.1), "strong": Motion(3 / 28, 15.0, 0.15)}
"""By the names of `Augment`. Light is two of MNIST's pixels, about as much as its writers' hands differ."""


class MemoryImages:
    """The images of a set that holds its pixels, as batches; offers what `finetune.data.load.Images` does.

    Where the network takes the pictures as they are, a batch is one indexing, with nothing done image by image.

    Args:
        image_set: the images; its `pixels` are there.
        preprocess: what the network takes.
    """

    workers = 0
    """Threads that read: none are needed."""

    def __init__(self, image_set: ImageSet, preprocess: Preprocess) -> None:
        assert image_set.pixels is not None
        self.preprocess = preprocess
        self._image_set = image_set
        self._pixels = torch.from_numpy(image_set.pixels)
        self._as_it_is = preprocess.size == tuple(self._pixels.shape[1:]) and preprocess.crop == 1.0

    @cached_property
    def _contents(self) -> np.ndarray:
        """The first bits of each picture's hash, uint64 [N]."""
        return np.array([int(name[:16], 16) for name in self._image_set.hashes], dtype=np.uint64)

    def __len__(self) -> int:
        return len(self._pixels)

    def release_pictures(self) -> None:
        """Does nothing: no decoded pictures are kept besides the set itself."""

    def require_unchanged(self) -> None:
        """Does nothing: images in memory cannot change."""

    @property
    def labels(self) -> np.ndarray:
        """Position of each image's class in the classes of the set, int64 [N]."""
        return self._image_set.labels

    @property
    def hashes(self) -> list[str]:
        """The sha256 of each image's pixels."""
        return self._image_set.hashes

    @property
    def units(self) -> list[str]:
        """For each image the unit that no fold may divide."""
        return self._image_set.units

    @property
    def names(self) -> list[str]:
        """The images' names."""
        return list(self._image_set.table["path"])

    def decoded_pixels(self, augment: Augment | None = None) -> torch.Tensor | None:
        """All pictures, uint8 [N, H, W, C], where they are seen as they are; None where each view is another."""
        seen_as_it_is = self._as_it_is and (augment is None or not augment.random)
        return self._coloured(self._pixels) if seen_as_it_is else None

    def pixels(
        self, indices: Sequence[int] | np.ndarray, augment: Augment | None = None, seed: int = 0, view: int = 0
    ) -> torch.Tensor:
        """The images `indices`, in that order, as one batch, uint8 [B, H, W, C]."""
        return next(self.batches([indices], augment, seed, view))[1]

    def batches(
        self,
        index_batches: Iterable[Sequence[int] | np.ndarray],
        augment: Augment | None = None,
        seed: int = 0,
        view: int = 0,
    ) -> Generator[tuple[np.ndarray, torch.Tensor], None, None]:
        """Batch after batch; a view is a pure function of (seed, view, content of the image).

        Args:
            index_batches: the indices of each batch.
            augment: None for the pictures as they are evaluated.
            seed: of the augmentation.
            view: of the augmentation.

        Yields:
            indices int64 [B] and pixels uint8 [B, H, W, C], in the order given.
        """
        motion = MOTIONS[augment.name] if augment is not None and augment.random else None
        # for all images at once: some thousand calls of a generator would take longer than the epoch
        chances = draws(seed, view, self._contents) if motion else None
        for given in index_batches:
            indices = np.asarray(given, dtype=np.int64)
            batch = self._prepared(indices)
            if motion is not None and chances is not None:
                batch = moved(batch, chances[torch.from_numpy(indices)], motion)
            yield indices, batch

    def _coloured(self, grey: torch.Tensor) -> torch.Tensor:
        """With as many channels as the network takes, from uint8 [B, H, W] to [B, H, W, C]."""
        return grey.unsqueeze(-1).expand(-1, -1, -1, self.preprocess.channels)

    def _prepared(self, indices: np.ndarray) -> torch.Tensor:
        """The pictures as they are evaluated, uint8 [B, H, W, C]."""
        grey = self._pixels.index_select(0, torch.from_numpy(indices))  # six times as fast as plain indexing
        if self._as_it_is:
            return self._coloured(grey)
        pictures = [Image.fromarray(picture).convert(self.preprocess.mode) for picture in grey.numpy()]
        return torch.from_numpy(np.stack([self.preprocess.evaluate(picture) for picture in pictures]))


def draws(seed: int, view: int, contents: np.ndarray) -> torch.Tensor:
    """Four uniform numbers in [0, 1) for each image, a function of its content alone, float32 [N, 4].

    SplitMix64 (Steele, Lea and Flood 2014) of content plus a key. The keys are raw bits of Philox, whose stream numpy
    keeps between versions (NEP 19).

    Args:
        seed: of the run.
        view: which view.
        contents: uint64 [N], the first bits of each image's hash.
    """
    keys = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(STREAM, view))).random_raw(4)
    bits = contents[:, None] + keys[None, :].astype(np.uint64)  # wraps round, as it should
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    # the upper 24 bits, which a float32 holds exactly
    return torch.from_numpy(((bits >> np.uint64(40)) * 2.0**-24).astype(np.float32))


def moved(batch: torch.Tensor, chances: torch.Tensor, motion: Motion) -> torch.Tensor:
    """Each picture shifted, turned and scaled by its own random numbers; what comes in from outside is its border.

    Args:
        batch: uint8 [B, H, W, C].
        chances: float32 [B, 4] in [0, 1): two shifts, rotation, scale.
        motion: how far.

    Returns:
        uint8 [B, H, W, C].
    """
    _, height, width, _ = batch.shape
    signed = (2 * chances - 1).view(-1, 4, 1, 1)
    angle, size = signed[:, 2] * math.radians(motion.rotate), 1 + signed[:, 3] * motion.scale
    cosine, sine = torch.cos(angle) / size, torch.sin(angle) / size
    # Where each pixel of the view comes from, as a share of half the side from the centre. Written out and not as a
    # product of matrices, whose rounding would depend on the size of the batch.
    down = (torch.arange(height) - (height - 1) / 2).view(1, -1, 1)
    across = (torch.arange(width) - (width - 1) / 2).view(1, 1, -1)
    grid = torch.empty(len(batch), height, width, 2)
    x, y = (2 / width) * down, (2 / height) * down
    torch.add((2 / width) * cosine * across, sine * x + 2 * motion.shift * signed[:, 0], out=grid[..., 0])
    torch.add((-2 / height) * sine * across, cosine * y + 2 * motion.shift * signed[:, 1], out=grid[..., 1])
    floats = batch.permute(0, 3, 1, 2).to(torch.float32)
    moved_pixels = grid_sample(floats, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved_pixels.round_().to(torch.uint8).permute(0, 2, 3, 1)

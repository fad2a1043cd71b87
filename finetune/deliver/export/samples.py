"""The pictures on which an export is tried, with the answers that it must give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from finetune.data.dataset import ImageSet
from finetune.data.decode import decode
from finetune.data.load import prepare
from finetune.data.preprocess import Preprocess
from finetune.device import choose
from finetune.errors import BadImage
from finetune.evaluate.evaluation import BATCH, forward_of
from finetune.evaluate.loop import infer
from finetune.evaluate.metrics import probabilities
from finetune.model.network import Network

MOST = 500
"""Pictures that are compared at most."""

DRAWN_SIZES = ((300, 200), (200, 300), (224, 224), (640, 480), (97, 31), (28, 28), (500, 333), (1, 1))
"""Width and height in pixels of the pictures that are drawn where there are no files."""


@dataclass(frozen=True)
class Samples:
    """Pictures, and what the trained network makes of them here.

    Attributes:
        about: what they are, for people.
        names: of the pictures.
        classes: names, in the order of the logits.
        labels: places in the network's classes, int64 [N]; None where nobody has told.
        rgb: from a picture's number to all of it, uint8 [height, width, 3]: what any program's decoder gives.
        pixels: as the network sees them, uint8 [N, H, W, C].
        logits: float32 [N, classes].
        probabilities: float64 [N, classes], those of `predict`.
        skipped: pictures that could not be read, one line each.
        preprocess: what the network expects of a picture.
    """

    about: str
    names: list[str]
    classes: list[str]
    labels: np.ndarray | None
    rgb: Callable[[int], np.ndarray]
    pixels: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    skipped: list[str]
    preprocess: Preprocess

    def __len__(self) -> int:
        return len(self.names)

    def inputs(self, at: np.ndarray) -> np.ndarray:
        """The pictures `at` as the network takes them, float32 [B, C, H, W]."""
        return self.preprocess.normalise(torch.from_numpy(self.pixels[at])).contiguous().numpy()

    def batches(self) -> list[np.ndarray]:
        """The pictures' numbers, in batches."""
        return [np.arange(start, min(start + BATCH, len(self))) for start in range(0, len(self), BATCH)]


def from_files(network: Network, images: ImageSet, split: str) -> Samples:
    """All images of a set, or `MOST` evenly spread over it, decoded from their files as `predict` does.

    A large JPEG is decoded at reduced size there (see `Preprocess.draft`), but whole in `rgb`, as other programs do.
    """
    chosen = np.unique(np.linspace(0, len(images) - 1, min(MOST, len(images))).round().astype(int))
    names, rows, kept, skipped = [], [], [], []
    for number in chosen.tolist():
        name = str(images.table["path"].iloc[number])
        try:
            rows.append(_prepared(network, images, number))
        except BadImage as error:
            skipped.append(f"{name}: {'; '.join(error.problems)}")
            continue
        names.append(name)
        kept.append(number)
    about = f"{len(names)} of the {len(images)} images of the {split} split"
    labels = images.labels[kept] if kept else None
    return _answered(network, about, names, labels, lambda at: _whole(images, kept[at]), rows, skipped)


def drawn(network: Network) -> Samples:
    """A few pictures of coloured patches in many sizes, where a bundle comes without images."""
    pictures = [_patches(number, width, height) for number, (width, height) in enumerate(DRAWN_SIZES)]
    rows = [network.preprocess.evaluate(picture.convert(network.preprocess.mode)) for picture in pictures]
    names = [f"drawn {width}x{height}" for width, height in DRAWN_SIZES]
    about = f"{len(names)} drawn pictures, because no test images are at hand"
    return _answered(network, about, names, None, lambda at: np.asarray(pictures[at]), rows, [])


def _answered(
    network: Network,
    about: str,
    names: list[str],
    labels: np.ndarray | None,
    rgb: Callable[[int], np.ndarray],
    rows: Sequence[np.ndarray],
    skipped: list[str],
) -> Samples:
    """The samples with the network's answers, in fp32 on the CPU."""
    pixels = np.stack(rows) if rows else np.empty((0, *network.preprocess.size, network.preprocess.channels), np.uint8)
    compute = choose("cpu", "fp32", convolutional=network.convolutional, light=network.light)
    batches = ((at, torch.from_numpy(pixels[at])) for at in np.array_split(np.arange(len(pixels)), _parts(len(pixels))))
    logits = infer(forward_of(network, compute), batches)
    return Samples(
        about=about,
        names=names,
        classes=network.classes,
        labels=labels,
        rgb=rgb,
        pixels=pixels,
        logits=logits,
        probabilities=probabilities(logits, network.loss, network.temperature),
        skipped=skipped,
        preprocess=network.preprocess,
    )


def _parts(count: int) -> int:
    return max(1, -(-count // BATCH))


def _prepared(network: Network, images: ImageSet, number: int) -> np.ndarray:
    if images.pixels is None:
        return prepare(images.paths[number], network.preprocess)
    return network.preprocess.evaluate(Image.fromarray(images.pixels[number]).convert(network.preprocess.mode))


def _whole(images: ImageSet, number: int) -> np.ndarray:
    if images.pixels is None:
        return np.asarray(decode(images.paths[number], "RGB"))
    return np.asarray(Image.fromarray(images.pixels[number]).convert("RGB"))


def _patches(seed: int, width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)

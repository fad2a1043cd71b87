"""Random views of training pictures; each is a pure function of (seed, view, content of the image)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from finetune.data.preprocess import Preprocess, pixels
from finetune.errors import UsageError, did_you_mean

STREAM = 1
"""Sets the random numbers of views apart from those of other uses of the same seed."""

TRIES = 10
"""Crops drawn before one that does not fit is shrunk until it does, as many as torchvision's RandomResizedCrop."""

DRAWS = 2 * TRIES + 12
"""Random numbers a view has at hand; always the same ones in the same places, whatever of them is used."""


@dataclass(frozen=True)
class Strength:
    """How far a view may stray from the picture; what is zero is left out.

    Args:
        scale: least and greatest share of the picture's area that the crop keeps.
        ratio: least and greatest width by height of the crop, relative to that of the network's input.
        flip: probability of a horizontal flip.
        jitter: brightness, contrast and saturation change by a factor in [1 - jitter, 1 + jitter].
        rotate: greatest rotation, in degrees, either way.
        erase: probability that a rectangle is painted over.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # Szegedy et al. 2015, and torchvision's default
    flip: float = 0.0
    jitter: float = 0.0
    rotate: float = 0.0
    erase: float = 0.0


STRENGTHS = {
    "none": None,
    # 0.35 rather than ImageNet's 0.08: with few images and a short training, a crop must still show the thing itself.
    "light": Strength(scale=(0.35, 1.0), flip=0.5),
    "strong": Strength(scale=(0.2, 1.0), flip=0.5, jitter=0.4, rotate=15.0, erase=0.25),
}


@dataclass(frozen=True)
class Augment:
    """An augmentation by name: `none`, `light` (crop and flip) or `strong` (also colour, rotation, erasing).

    Raises:
        UsageError: no such name.
    """

    name: str = "none"

    def __post_init__(self) -> None:
        if self.name not in STRENGTHS:
            near = did_you_mean(str(self.name), STRENGTHS)
            raise UsageError(f"data.augment: {self.name!r} is not known{near}", f"choose one of {', '.join(STRENGTHS)}")

    @property
    def random(self) -> bool:
        """Whether two views of one image differ."""
        return STRENGTHS[self.name] is not None

    def draft(self, preprocess: Preprocess) -> tuple[int, int]:
        """Least width and height a JPEG is decoded at: enough that the smallest crop still has the network's pixels."""
        strength = STRENGTHS[self.name]
        if strength is None:
            return preprocess.draft
        height, width = preprocess.size
        smallest = math.ceil(math.sqrt(height * width / (strength.scale[0] * strength.ratio[0])))
        side = max(smallest, *preprocess.draft)
        return side, side

    def view(self, image: Image.Image, preprocess: Preprocess, seed: int, view: int, sha256: str) -> np.ndarray:
        """One view of a picture, the same for the same arguments on every machine.

        Args:
            image: of mode `preprocess.mode`, as `decode` gives it.
            preprocess: what the network takes.
            seed: of the run, not negative.
            view: which view; an epoch's number, or that modulo the number of cached views.
            sha256: of the image's file, so that neither its name nor its place in the folder matters.

        Returns:
            uint8 [H, W, C].
        """
        strength = STRENGTHS[self.name]
        if strength is None:
            return preprocess.evaluate(image)
        draws = _draws(seed, view, sha256)
        aspect = preprocess.size[1] / preprocess.size[0]
        seen = preprocess.resize_image(image, crop_box(image.width, image.height, aspect, strength, draws))
        if next(draws) < strength.flip:
            seen = seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        fill = tuple(min(255, max(0, round(255 * mean))) for mean in preprocess.mean)  # becomes zero when normalised
        if strength.jitter:
            seen = _jitter(seen, strength.jitter, draws)
        if strength.rotate:
            seen = _rotate(seen, strength.rotate, fill, draws)
        seen_pixels = pixels(seen)
        return _erase(seen_pixels, strength.erase, fill, draws) if strength.erase else seen_pixels

    def as_dict(self) -> dict[str, Any]:
        """Name and numbers, for the record and for the key of a cache."""
        strength = STRENGTHS[self.name]
        return {"name": self.name, **(asdict(strength) if strength else {})}


def crop_box(
    width: int, height: int, aspect: float, strength: Strength, draws: Iterator[float]
) -> tuple[float, float, float, float]:
    """A random box (left, upper, right, lower) inside a picture of `width` x `height` pixels.

    RandomResizedCrop of Szegedy et al. 2015 with fractional borders: area and shape are drawn until the box fits;
    after `TRIES` the last is shrunk to fit, so that a very narrow picture, too, is seen at random places. Uses
    2 x TRIES + 2 draws.
    """
    # shapes are drawn on a logarithmic scale, so that twice as wide is as likely as half as wide
    low, high = (math.log(ratio * aspect) for ratio in strength.ratio)
    box_width = box_height = 0.0
    fits = False
    for _ in range(TRIES):
        share, shape = next(draws), next(draws)
        if fits:
            continue  # the draws are used up all the same: what follows must not depend on how soon a box fits
        area = width * height * (strength.scale[0] + share * (strength.scale[1] - strength.scale[0]))
        ratio = math.exp(low + shape * (high - low))
        box_width, box_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        fits = box_width <= width and box_height <= height
    shrink = min(1.0, width / box_width, height / box_height)
    box_width, box_height = box_width * shrink, box_height * shrink
    left, upper = next(draws) * (width - box_width), next(draws) * (height - box_height)
    return left, upper, left + box_width, upper + box_height


def _draws(seed: int, view: int, sha256: str) -> Iterator[float]:
    """`DRAWS` uniform numbers in [0, 1).

    Taken from the raw bits of Philox, a stream that numpy never changes between versions (NEP 19), unlike those of its
    distributions: a run resumed after an upgrade sees the same views.
    """
    key = np.random.SeedSequence(seed, spawn_key=(STREAM, view, int(sha256, 16)))
    bits = np.random.Philox(key).random_raw(DRAWS)  # 64 bits each, of which a float64 holds the upper 53
    return iter(((bits >> np.uint64(11)) * 2.0**-53).tolist())


def _jitter(image: Image.Image, jitter: float, draws: Iterator[float]) -> Image.Image:
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for enhancer in enhancers:
        factor = 1 + jitter * (2 * next(draws) - 1)
        if enhancer is not ImageEnhance.Color or image.mode == "RGB":  # grey has no colour; its draw is used up
            image = enhancer(image).enhance(factor)
    return image


def _rotate(image: Image.Image, most: float, fill: tuple[int, ...], draws: Iterator[float]) -> Image.Image:
    angle = most * (2 * next(draws) - 1)
    return image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=fill if len(fill) > 1 else fill[0])


def _erase(view: np.ndarray, probability: float, fill: tuple[int, ...], draws: Iterator[float]) -> np.ndarray:
    """Random erasing (Zhong et al. 2020): 2 to 20 % of the area, width by height 0.3 to 3.3, painted with the mean."""
    chance, share, shape, across, down = (next(draws) for _ in range(5))
    if chance >= probability:
        return view
    height, width = view.shape[:2]
    area, ratio = height * width * (0.02 + 0.18 * share), math.exp(math.log(0.3) + shape * (math.log(3.3 / 0.3)))
    box_width = min(width, max(1, round(math.sqrt(area * ratio))))
    box_height = min(height, max(1, round(math.sqrt(area / ratio))))
    left, upper = int(across * (width - box_width + 1)), int(down * (height - box_height + 1))
    erased = view.copy()  # Pillow's own pixels are read-only
    erased[upper : upper + box_height, left : left + box_width] = fill
    return erased

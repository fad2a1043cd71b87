"""From a picture to what a network takes: one resize with a crop box, then the normalisation of a whole batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps

from finetune.data.decode import MAX_MEGAPIXELS, Decoding
from finetune.errors import UsageError, did_you_mean

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
"""Pillow's filters by the names that timm's configurations use; all but `nearest` are anti-aliased."""

CROP_MODES = ("center", "squash", "border")

DRAFT = 2
"""A JPEG may be decoded at a reduced scale that still has this many times the pixels a side that the resize needs.

libjpeg's reduced scales average inside 8x8 blocks, a coarser filter than Pillow's. With twice the size left, the
resize after it removes what the two filters do differently: on two photographs of 3 and 5 megapixels brought to 224
pixels, the values differ from those of the whole decode by 0.2 to 0.3 of 255 on average, against 0.5 to 0.9 with once
the size, and decoding still takes half the time.
"""


@dataclass(frozen=True)
class Preprocess:
    """Size, crop and normalisation that a network expects; stored with its weights.

    Args:
        size: height and width in pixels that the network takes.
        mean: mean of each channel, of values in [0, 1]; three for RGB, one for grey.
        std: standard deviation of each channel, likewise.
        interpolation: one of `INTERPOLATIONS`.
        crop: share of the picture's short side that the centre crop keeps; above 1, up to 4, the picture gets a black
            margin instead: for 1.4, it fills 1 / 1.4 of what the network takes.
        crop_mode: what becomes of the part that does not fit, as in timm: "center" cuts off the ends of the long side;
            "squash" changes the proportions; "border" adds margins of the mean colour. With crop 1 the last two show
            all of the picture.
        range: the numbers that are black and white in pictures of more than 8 bits, see `finetune.data.levels`.
        max_megapixels: larger pictures are refused.

    Raises:
        UsageError: a value that no picture could be prepared with.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of ImageNet, as in torchvision and timm
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bicubic"
    crop: float = 0.875
    crop_mode: str = "center"
    range: tuple[float, float] | str | None = None
    max_megapixels: float = MAX_MEGAPIXELS

    def __post_init__(self) -> None:
        problems = _problems(self)
        if problems:
            raise UsageError(problems, "correct the preprocessing in the recipe or the card, or leave it out")
        object.__setattr__(self, "size", tuple(int(side) for side in self.size))
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        object.__setattr__(self, "crop", float(self.crop))
        object.__setattr__(self, "max_megapixels", float(self.max_megapixels))
        if isinstance(self.range, (list, tuple)):
            object.__setattr__(self, "range", tuple(float(number) for number in self.range))

    @property
    def channels(self) -> int:
        """Channels of the network's input: 3 or 1."""
        return len(self.mean)

    @property
    def mode(self) -> Literal["RGB", "L"]:
        """The mode in which pictures are decoded."""
        return "RGB" if self.channels == 3 else "L"

    @property
    def margin(self) -> tuple[int, ...]:
        """The colour of what is outside the picture, a level from 0 to 255 for each channel."""
        colour = self.mean if self.crop_mode == "border" else (0.0,) * self.channels
        return tuple(min(255, max(0, round(255 * level))) for level in colour)

    @property
    def decoding(self) -> Decoding:
        """How pictures are decoded before they are resized."""
        return Decoding(self.range, self.max_megapixels)  # type: ignore[arg-type]  # `_problems` has seen it

    def read_as(self, decoding: Decoding) -> Preprocess:
        """The same for pictures that are decoded by other rules, those of a data set."""
        return replace(self, range=decoding.range, max_megapixels=decoding.max_megapixels)

    @property
    def draft(self) -> tuple[int, int]:
        """Least width and height a JPEG is decoded at, for `decode`; the same whichever way up the picture lies."""
        side = math.ceil(DRAFT * max(self.size) / self.crop)
        return side, side

    def evaluate(self, image: Image.Image) -> np.ndarray:
        """The picture as it is evaluated: scaled until it covers `size / crop`, then the centre of it.

        Both are one resize from a centred box with fractional borders, so no picture in between is made and none is
        too small or too narrow. Where the box is larger than the picture, what is outside is black, or of the mean
        colour with the crop mode "border" (as in timm).

        Args:
            image: of mode `self.mode`, as `decode` gives it.

        Returns:
            uint8 [H, W, C].
        """
        height, width = self.size
        scales = height / image.height, width / image.width
        if self.crop_mode == "squash":
            down, across = (scale / self.crop for scale in scales)
        else:
            down = across = (min(scales) if self.crop_mode == "border" else max(scales)) / self.crop
        box_width, box_height = width / across, height / down
        if self.crop > 1 or self.crop_mode == "border":
            image = _with_margins(image, box_width, box_height, self.margin)
        left, upper = (image.width - box_width) / 2, (image.height - box_height) / 2
        return self.resize(image, (left, upper, image.width - left, image.height - upper))

    def resize(self, image: Image.Image, box: tuple[float, float, float, float]) -> np.ndarray:
        """The part of the picture inside `box` (left, upper, right, lower) as uint8 [H, W, C]."""
        return pixels(self.resize_image(image, box))

    def resize_image(self, image: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
        """The part of the picture inside `box` at the network's size, still a Pillow image."""
        height, width = self.size
        left, upper, right, lower = box  # rounding may have pushed a border over the edge, which Pillow refuses
        inside = (max(left, 0.0), max(upper, 0.0), min(right, float(image.width)), min(lower, float(image.height)))
        return image.resize((width, height), INTERPOLATIONS[self.interpolation], box=inside)

    def normalise(self, batch: torch.Tensor) -> torch.Tensor:
        """Normalised images: ``(x / 255 - mean) / std``, on the device of the batch.

        Args:
            batch: uint8 [N, H, W, C].

        Returns:
            float32 [N, C, H, W] with channels_last strides, which come for free from the layout of the pixels.
        """
        n, height, width, channels = batch.shape
        # A row of the constants as long as a row of pixels: twice as fast as broadcasting over three channels.
        mean = torch.tensor(self.mean, device=batch.device).mul_(255).repeat(width)
        std = torch.tensor(self.std, device=batch.device).mul_(255).repeat(width)
        rows = batch.to(torch.float32).reshape(n, height, width * channels)
        return rows.sub_(mean).div_(std).view(n, height, width, channels).permute(0, 3, 1, 2)

    def example(self) -> torch.Tensor:
        """Two grey pictures as `normalise` gives them: what traces a network."""
        return self.normalise(torch.full((2, *self.size, self.channels), 127, dtype=torch.uint8))

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """The inverse of `as_dict`; `size` may also be one number, for a square.

        Raises:
            UsageError: an unknown key, a missing size, or a value that cannot be.
        """
        known = [field.name for field in fields(cls)]
        unknown = [f"preprocess.{key}: unknown key{did_you_mean(key, known)}" for key in values if key not in known]
        missing = [] if "size" in values else ["preprocess.size: missing"]
        if unknown or missing:
            raise UsageError(unknown + missing, f"the keys are {', '.join(known)}")
        size = values["size"]
        return cls(**{**values, "size": (size, size) if isinstance(size, int) else size})


def _with_margins(image: Image.Image, width: float, height: float, colour: tuple[int, ...]) -> Image.Image:
    """The picture in the middle of a colour, at least `width` x `height` pixels large, as many on either side.

    Args:
        image: RGB or grey.
        width, height: in pixels.
        colour: a level from 0 to 255 for each channel.
    """
    across, down = (math.ceil(max(0.0, room) / 2) for room in (width - image.width, height - image.height))
    if not across and not down:
        return image
    return ImageOps.expand(image, (across, down), fill=colour if image.mode == "RGB" else colour[0])


def pixels(image: Image.Image) -> np.ndarray:
    """A Pillow image as uint8 [H, W, C], grey with C = 1."""
    return np.asarray(image).reshape(image.height, image.width, -1)


def _problems(given: Preprocess) -> list[str]:
    """Everything that is wrong with the fields, one line each."""
    problems = []
    if not (_numbers(given.size) and len(given.size) == 2 and all(side == int(side) >= 1 for side in given.size)):
        problems.append(f"preprocess.size: {given.size!r} is no height and width in pixels")
    if not (_numbers(given.mean) and len(given.mean) in (1, 3)):
        problems.append(f"preprocess.mean: {given.mean!r} is no list of 3 numbers (or 1, for grey)")
    if not (_numbers(given.std) and all(value > 0 for value in given.std)):
        problems.append(f"preprocess.std: {given.std!r} is no list of positive numbers")
    elif _numbers(given.mean) and len(given.std) != len(given.mean):
        problems.append(f"preprocess.std: has {len(given.std)} values, preprocess.mean has {len(given.mean)}")
    if given.interpolation not in INTERPOLATIONS:
        near = did_you_mean(str(given.interpolation), INTERPOLATIONS)
        problems.append(
            f"preprocess.interpolation: {given.interpolation!r} is none of {', '.join(INTERPOLATIONS)}{near}"
        )
    if not (_numbers([given.crop]) and 0 < given.crop <= 4):
        problems.append(f"preprocess.crop: {given.crop!r} is not in (0, 4]")
    if given.crop_mode not in CROP_MODES:
        near = did_you_mean(str(given.crop_mode), CROP_MODES)
        problems.append(f"preprocess.crop_mode: {given.crop_mode!r} is none of {', '.join(CROP_MODES)}{near}")
    if not (given.range in (None, "dtype") or (_numbers(given.range) and _is_range(given.range))):
        problems.append(f"preprocess.range: {given.range!r} is no pair of numbers, the lower first")
    if not (_numbers([given.max_megapixels]) and given.max_megapixels > 0):
        problems.append(f"preprocess.max_megapixels: {given.max_megapixels!r} is no positive number")
    return problems


def _is_range(values: Any) -> bool:
    return len(values) == 2 and values[0] < values[1]


def _numbers(values: Any) -> bool:
    """Whether `values` is a list or tuple of finite numbers."""
    return isinstance(values, (list, tuple)) and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) for value in values
    )

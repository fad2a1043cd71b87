"""From a file's own numbers to 8 bits: what is black, what is white, for a whole data set at once.

A picture of 16 bits, 32 bits or floats does not say what white is. Cameras put 10, 12 or 14 bits into 16, thermal
cameras use 7000 to 9000 of 65535, maps hold metres. Scaling such numbers by what their type could hold leaves a few
grey levels; scaling each picture by its own darkest and lightest pixel makes pictures incomparable, and one hot pixel
turns all others black. So one range is found in the scan for all images of a data set. It travels with the network
(`Preprocess.range`), because a picture must mean the same when it is predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image

from finetune.errors import BadImage

Range = tuple[float, float] | Literal["dtype"] | None
"""The numbers that are black and white; "dtype": what the type can hold; None: not known, see `range_of_picture`."""

QUANTILES = (0.0, 0.001, 0.01, 0.99, 0.999, 1.0)
"""What is kept of the distribution of a picture's numbers."""

SAMPLE = 1_000_000
"""Pixels that quantiles are taken from, of larger pictures evenly chosen ones; least and most come from all."""

INTEGER_WHITES = (255.0, 1023.0, 4095.0, 16383.0, 65535.0)
"""White of 8, 10, 12, 14 and 16 bits."""

FLOAT_WHITES = (1.0, 255.0, 65535.0)

UNIFORM = 16
"""Grey levels of 255 below which nearly all pixels of a picture lie together: it shows next to nothing."""


def is_deep(mode: str) -> bool:
    """Whether an image of this Pillow mode holds numbers of more than 8 bits."""
    return mode.startswith("I") or mode == "F"


def quantiles(image: Image.Image) -> tuple[float, ...]:
    """The `QUANTILES` of an image's numbers; of an 8-bit one those of its grey levels.

    Raises:
        BadImage: floats that are not finite.
    """
    if not is_deep(image.mode):
        counts = np.cumsum(image.convert("L").histogram()[:256])
        # a histogram tells the quantiles of 8-bit levels exactly, without sorting the pixels
        ranks = np.array(QUANTILES) * (counts[-1] - 1) + 1
        return tuple(float(level) for level in np.searchsorted(counts, ranks))
    numbers = np.asarray(image).ravel()
    if not np.isfinite(numbers).all():
        raise BadImage("holds values that are not finite")
    inner = np.quantile(numbers[:: 1 + len(numbers) // SAMPLE], QUANTILES[1:-1])
    return (float(numbers.min()), *map(float, inner), float(numbers.max()))


def find_range(pictures: Sequence[tuple[float, ...]], floats: bool) -> tuple[float, float]:
    """The numbers that are black and white for all pictures of a data set.

    From the least to the most, unless that is more than twice as far as what 98 % of all pictures need for 98 % of
    their pixels: then a few hot pixels are clipped. Where the result fills at least half of a usual range (8, 10, 12,
    14 or 16 bits; floats up to 1, 255 or 65535), it is that range, so that a few pictures more do not change it.

    Args:
        pictures: `quantiles` of each.
        floats: whether any of them holds floats.
    """
    table = np.array(pictures, dtype=np.float64)
    low, high = (
        float(np.quantile(table[:, 2], 0.02, method="lower")),
        float(np.quantile(table[:, 3], 0.98, method="higher")),
    )
    least, most = float(table[:, 0].min()), float(table[:, 5].max())
    span = high - low
    if span > 0:
        # the ends are taken as they are unless they lie farther out than all the rest is wide: hot or dead pixels
        low = least if low - least <= span else low
        high = most if most - high <= span else high
    else:
        low, high = least, most
    for white in FLOAT_WHITES if floats else INTEGER_WHITES:
        if low >= 0 and high <= white and high - low >= white / 2:
            return 0.0, white
    return (low, high) if high > low else (low, low + 1.0)  # pictures of one number: nothing is divided by 0


def grey_levels(quantiles_of_picture: tuple[float, ...], deep: bool, black_white: Range, mode: str) -> float:
    """How many of the 255 grey levels nearly all pixels of a picture span once it is scaled.

    Args:
        found: its `quantiles`.
        deep: whether they are numbers that will be scaled.
        black_white: the range of the data set.
        mode: of the file, as Pillow names it.
    """
    if not deep:
        return quantiles_of_picture[4] - quantiles_of_picture[1]
    low, white = (
        black_white
        if isinstance(black_white, tuple)
        else range_of_picture(quantiles_of_picture[0], quantiles_of_picture[5], mode, black_white)
    )
    low_end, high_end = (min(max(value, low), white) for value in (quantiles_of_picture[1], quantiles_of_picture[4]))
    return (high_end - low_end) * 255.0 / max(white - low, 1e-300)


def range_of_picture(least: float, most: float, mode: str, wanted: Range) -> tuple[float, float]:
    """Black and white for one picture of a data set whose range is not known.

    16 bits are taken whole. Of 32 bits, floats within 0..1 and integers within 0..255 or 0..65535 are taken for that
    range, anything else is stretched from its darkest to its lightest pixel; with "dtype", integers of 32 bits span
    0 to 2**31 - 1 and floats 0 to 1.
    """
    if mode.startswith("I;16"):
        return 0.0, 65535.0
    if wanted == "dtype":
        return 0.0, 1.0 if mode == "F" else 2.0**31 - 1
    whites = FLOAT_WHITES if mode == "F" else (255.0, 65535.0)
    white = next((white for white in whites if least >= 0 and most <= white), None)
    return (0.0, white) if white is not None else (least, most)


def eight_bits(
    levels: np.ndarray[Any, Any], mode: str, black_white: Range = None
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Numbers of an image with more than 8 bits, [H, W], as 8-bit ones: black is 0, white is 255, the rest clipped.

    Args:
        levels: the file's own numbers.
        mode: of the image, as Pillow names it.
        black_white: the range of the data set.

    Raises:
        BadImage: floats that are not finite.
    """
    if not np.isfinite(levels).all():
        raise BadImage("holds values that are not finite")
    if isinstance(black_white, tuple):
        low, white = black_white
    else:
        low, white = range_of_picture(float(levels.min()), float(levels.max()), mode, black_white)
    scaled = np.empty(levels.shape, np.uint8)
    rows = max(1, 1_000_000 // levels.shape[1])  # in strips: eight bytes a pixel of a large scan are much
    for top in range(0, levels.shape[0], rows):
        strip = (levels[top : top + rows].astype(np.float64) - low) * 255.0 / max(white - low, 1e-300)
        scaled[top : top + rows] = np.rint(strip.clip(0.0, 255.0))
    return scaled

"""Whether two pictures of one structure have one colour: the same shirt in red and in blue is not the same picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finetune.data.decode import decode
from finetune.errors import BadImage

CELLS = 4
"""Cells along a side whose mean colours are compared: few enough that a crop of some percent changes little."""

COLOURLESS = 4.0
"""Mean strength of colour, of 255, up to which a picture is grey; a grey copy of a colour picture is a copy."""

OTHER = 16.0
"""Mean difference of colour between cells, of 255, from which on colours are other ones."""

Array = np.ndarray[Any, np.dtype[np.float32]]


def other_colours(first: Path, second: Path, mirrored: bool) -> bool:
    """Whether two pictures are of clearly different colours; False where one is grey or cannot be read."""
    try:
        one, two = _opponents(first), _opponents(second)
    except BadImage:
        return False
    if min(float(np.abs(one).mean()), float(np.abs(two).mean())) < COLOURLESS:
        return False
    return float(np.abs(one - (two[:, ::-1] if mirrored else two)).mean()) > OTHER


def _opponents(path: Path) -> Array:
    """How far each cell is from grey, red to green and blue to yellow, for a mean brightness of 128: [CELLS, CELLS, 2].

    Raises:
        BadImage: the picture cannot be read.
    """
    small = decode(path, "RGB", draft=(16 * CELLS, 16 * CELLS)).resize((CELLS, CELLS), Image.Resampling.BOX)
    pixels = np.asarray(small, dtype=np.float32)
    red, green, blue = np.moveaxis(pixels * (128 / max(float(pixels.mean()), 1.0)), 2, 0)
    return np.stack([red - green, blue - (red + green) / 2], axis=2)

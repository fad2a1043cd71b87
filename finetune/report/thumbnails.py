"""Small pictures inside a page: JPEG, as data addresses, so that the page stays one file."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE, QUALITY = 96, 72
"""Pixels of the longer side, and quality of the JPEG: about 3 kB a picture."""


def thumbnail(picture: Image.Image | NDArray[np.uint8], side: int = SIDE) -> str:
    """A picture (PIL, or uint8 [height, width, channels]) as a `data:` address of a JPEG, its longer side `side`."""
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture[:, :, :3])
    if max(picture.size) < side:  # a digit of 28 pixels stays a picture of pixels
        scale = side / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.NEAREST)
    else:
        picture = picture.copy()
        picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return data_address(buffer.getvalue())


def data_address(jpeg: bytes) -> str:
    """A JPEG as a `data:` address."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()

"""A picture however a script holds it (path, bytes, open file, Pillow image, array, tensor), as what `decode` takes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, JpegImagePlugin

from finetune.data.decode import MAX_BYTES
from finetune.errors import UsageError

Picture = str | Path | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray | torch.Tensor
"""Everything that `as_source` takes."""

KINDS = "a path, bytes, an open binary file, a PIL image, or an array or tensor: uint8, or floats from 0 to 1"
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def as_source(picture: Picture) -> Path | bytes | Image.Image:
    """A picture as `decode` takes it, so that the answer is that of the file it came from.

    Args:
        picture: a path; the bytes of a file; a binary file, read from where it stands; a Pillow image, of which nothing
            is changed but that it is loaded; an array [H, W] or [H, W, C] or a tensor [H, W], [C, H, W] or [H, W, C],
            C from 1 to 4, uint8 or floats in [0, 1] (as torchvision's `to_tensor` gives them).

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(picture, str | Path):
        return Path(picture)
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, Image.Image):
        return _from_pillow(picture)
    if isinstance(picture, torch.Tensor):
        return _from_array(_channels_last(picture.detach().cpu()).numpy())
    if isinstance(picture, np.ndarray):
        return _from_array(picture)
    if callable(getattr(picture, "read", None)):
        data = picture.read(MAX_BYTES + 1)  # one more than `decode` takes, for it to refuse
        if isinstance(data, bytes):
            return data
        raise UsageError("the file is opened as text", "open it in binary: open(path, 'rb')")
    raise UsageError(f"{type(picture).__name__} is no picture", f"give {KINDS}")


def as_list(pictures: Any) -> list[Any] | None:
    """The pictures, if it is several: a list, tuple or other iterable, or a batch of four dimensions; None for one."""
    if isinstance(pictures, np.ndarray | torch.Tensor):
        return list(pictures) if pictures.ndim == 4 else None
    if isinstance(pictures, str | bytes | bytearray | memoryview | Path | Image.Image | io.IOBase):
        return None
    return None if hasattr(pictures, "read") or not hasattr(pictures, "__iter__") else list(pictures)


def name_of(picture: Picture) -> str:
    """The path of a picture; empty if it has none."""
    if isinstance(picture, str | Path):
        return str(picture)
    name = getattr(picture, "filename", None) or getattr(picture, "name", None)
    return str(name) if isinstance(name, str | Path) else ""


def _from_pillow(image: Image.Image) -> bytes | Image.Image:
    """The bytes of a JPEG whose pixels are not read yet: `decode` may then read a large one at a reduced scale, as it
    does with files. Anything else is the same either way."""
    if isinstance(image, JpegImagePlugin.JpegImageFile) and image.tile and image.fp is not None:
        position = image.fp.tell()
        try:
            image.fp.seek(0)
            return bytes(image.fp.read(MAX_BYTES + 1))
        finally:
            image.fp.seek(position)
    return image


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    """[C, H, W] as [H, W, C]; where both could be, channels come first, as everywhere in PyTorch."""
    return tensor.permute(1, 2, 0) if tensor.ndim == 3 and tensor.shape[0] in _MODES else tensor


def _from_array(values: np.ndarray) -> Image.Image:
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in _MODES) or not values.size:
        raise UsageError(f"an array of shape {tuple(values.shape)} is no picture", f"give {KINDS}, [H, W] or [H, W, C]")
    if np.issubdtype(values.dtype, np.floating):
        if not (values.min() >= 0 and values.max() <= 1):  # says no to NaN, too
            raise UsageError("an array of floats outside 0 to 1", "give the picture as it was before normalisation")
        values = np.rint(values * 255.0).astype(np.uint8)
    if values.dtype != np.uint8:
        raise UsageError(f"an array of {values.dtype}", f"give {KINDS}")
    values = np.ascontiguousarray(values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values)
    return Image.fromarray(values)

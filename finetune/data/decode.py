"""The one function that turns a file into an image: for training, evaluating, predicting and serving alike."""

from __future__ import annotations

import errno
import io
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, JpegImagePlugin, TiffImagePlugin

from finetune.data.formats import FORMATS, HEAD, NEEDS, can_read, format_of
from finetune.data.levels import Range, eight_bits, is_deep, quantiles
from finetune.errors import BadImage, ResourceError, from_os_error
from finetune.files import visible

MAX_BYTES = 256 * 1024**2
"""Largest file that is read, in bytes."""

MAX_MEGAPIXELS = 100.0
"""Largest image that is decoded by default: 300 MB in RGB. More is an error, read off the header."""

BACKGROUND = (255, 255, 255, 255)
"""What shows through transparent pixels. White: cut-outs and drawings are made for white pages."""

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LOOKS_LIKE = {
    b"GIF8": "it looks like a GIF",
    b"%!PS": "it looks like PostScript",
    b"\xc5\xd0\xd3\xc6": "it looks like PostScript",
    b"%PDF": "it looks like a PDF",
    b"PK\x03\x04": "it looks like a ZIP archive",
    b"<svg": "it looks like an SVG",
    b"<": "it looks like HTML or XML",
}
_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@dataclass(frozen=True)
class Decoding:
    """How images are decoded, the same for all of a data set.

    Attributes:
        range: the numbers that are black and white in images of more than 8 bits.
        max_megapixels: larger images are refused.
    """

    range: Range = None
    max_megapixels: float = MAX_MEGAPIXELS


LOOK = (64, 64)
"""Width and height that a JPEG is decoded at to be looked at: small is fast, but a thumbnail's grey levels count."""

PLAIN = Decoding()
"""What holds where nothing else is said."""


@dataclass(frozen=True)
class Facts:
    """Size, mode and format of an image file.

    Attributes:
        width, height: in pixels, upright.
        mode: of the file, as Pillow names it.
        format: likewise.
        animated: whether it has more than one frame.
        bits: of a channel in the file: 8, 16 or 32.
        numbers: `levels.quantiles` of the image.
    """

    width: int
    height: int
    mode: str
    format: str
    animated: bool
    bits: int = 8
    numbers: tuple[float, ...] = ()


def read(path: Path) -> bytes:
    """The bytes of a regular file, at most `MAX_BYTES`; a FIFO or a device is never opened.

    Raises:
        BadImage: missing, unreadable (the error's name is given), not regular, empty or too large.
        ResourceError: the machine is out of file descriptors or memory.
    """
    with _reachable(path):
        _require_regular(os.stat(path))
        # O_NONBLOCK: should a FIFO take the file's place between the two calls, opening it must not hang.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            _require_regular(os.fstat(descriptor))  # what was opened, which need not be what was looked at
            data = file.read(MAX_BYTES + 1)  # one more than is allowed: a file that grows meanwhile is noticed
    if not data:
        raise BadImage("empty file (0 bytes)")
    if len(data) > MAX_BYTES:
        raise BadImage(f"file too large: over {MAX_BYTES:,} bytes")
    return data


def size(path: Path) -> int:
    """How many bytes a regular file has, without reading it.

    Raises:
        BadImage: missing, out of reach (the error's name is given), not regular or too large.
        ResourceError: the machine is out of memory.
    """
    with _reachable(path):
        status = os.stat(path)
    _require_regular(status)
    return status.st_size


@contextmanager
def _reachable(path: Path) -> Iterator[None]:
    """Turns errors of the system inside into BadImage, with the error's name."""
    try:
        yield
    except OSError as error:
        if error.errno in _MACHINE:
            raise from_os_error(error, visible(str(path)), "read") from error
        name = errno.errorcode.get(error.errno or 0, "OSError")
        raise BadImage(f"cannot be read: {error.strerror or error} [{name}]") from error


def _require_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise BadImage("not a regular file")
    if status.st_size > MAX_BYTES:
        raise BadImage(f"file too large: {status.st_size:,} bytes, more than {MAX_BYTES:,}")


def decode(
    source: Path | bytes | Image.Image,
    mode: Literal["RGB", "L"],
    draft: tuple[int, int] | None = None,
    decoding: Decoding = PLAIN,
) -> Image.Image:
    """One image, whole, upright, 8 bits a channel; of several frames the first.

    16-bit and float images are scaled to 8 bits, transparent pixels show `BACKGROUND`, EXIF orientation is applied.

    Args:
        source: a path, or the bytes of a file, whose content decides the format and not the name; or an image that
            Pillow has opened, of which only the pixels are read.
        mode: "RGB" or "L" (grey).
        draft: (width, height) in pixels, upright, at least 1: a JPEG may be decoded at 1/2, 1/4 or 1/8 scale, never
            below this size. Much faster where a small image is wanted.
        decoding: what is black and white, and the cap on pixels.

    Raises:
        BadImage: the file is no image, is cut short, breaks a cap or cannot be read; the problem says why, without
            the path.
        ResourceError: not enough memory or file descriptors.
    """
    data = read(source) if isinstance(source, Path) else source
    with _reasons(source):
        image, _ = _load(data, draft, decoding)
        return _plain(image, mode, decoding.range)


def inspect(data: bytes, decoding: Decoding = PLAIN) -> Facts:
    """Decode an image to its end (at a small scale where its format allows) and return its facts.

    Raises:
        BadImage: as for `decode`.
        ResourceError: not enough memory.
    """
    with _reasons(data):
        image, facts = _load(data, LOOK, decoding)
        numbers = quantiles(image) if is_deep(image.mode) else ()
        plain = _plain(image, "RGB", decoding.range)
        return replace(facts, numbers=numbers or quantiles(plain))


@contextmanager
def _reasons(source: Path | bytes | Image.Image) -> Iterator[None]:
    """Turns errors of Pillow inside into BadImage, with a reason of one line."""
    try:
        yield
    except (BadImage, ResourceError):
        raise
    except MemoryError as error:
        name = visible(str(source)) if isinstance(source, Path) else "image"
        remedy = "free some memory or use fewer workers"
        raise ResourceError(f"{name}: not enough memory to decode it", remedy) from error
    except Exception as error:  # plugins raise nearly anything on hostile bytes
        raise BadImage(f"cannot be decoded: {visible(str(error)) or type(error).__name__}") from error


def _load(data: bytes | Image.Image, draft: tuple[int, int] | None, decoding: Decoding) -> tuple[Image.Image, Facts]:
    """The decoded image, upright but in the file's own mode, and its facts."""
    image = _open(data, decoding) if isinstance(data, bytes) else data
    bits = _bits(image, data)
    stored, mode, name, animated = image.size, image.mode, image.format or "", getattr(image, "is_animated", False)
    jpeg = isinstance(image, JpegImagePlugin.JpegImageFile)  # MPO, the JPEG of many phones, is a subclass
    if draft is not None and jpeg and image is not data:  # what somebody else has opened keeps its size
        image.draft(None, (draft[1], draft[0]) if _orientation(image) >= 5 else draft)
    image.load()
    turn = _orientation(image)  # after loading: PNG keeps it behind the pixels, TIFF has applied it by now
    if turn in _UPRIGHT:
        image = image.transpose(_UPRIGHT[turn])
    width, height = image.size if not jpeg else stored[::-1] if turn >= 5 else stored
    return image, Facts(width, height, mode, "JPEG" if jpeg else name, bool(animated) and not jpeg, bits)


def _bits(image: Image.Image, data: bytes | Image.Image) -> int:
    """Bits of a channel in the file. Of colours with 16, Pillow gives the upper 8, and its mode does not tell."""
    if is_deep(image.mode):
        return 16 if image.mode.startswith("I;16") else 32
    if isinstance(data, bytes) and image.format == "PNG":
        return 16 if data[24:25] == b"\x10" else 8  # IHDR's bit depth
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        widths = image.tag_v2.get(258, (8,))
        return 16 if max(widths if isinstance(widths, tuple) else (widths,)) > 8 else 8
    return 8


def _open(data: bytes, decoding: Decoding) -> Image.Image:
    """The image behind its header, pixels not read yet; caps and completeness checked."""
    if not data:
        raise BadImage("empty file (0 bytes)")
    if len(data) > MAX_BYTES:
        raise BadImage(f"file too large: {len(data):,} bytes, more than {MAX_BYTES:,}")
    image = _identify(data)
    width, height = image.size
    if width * height > decoding.max_megapixels * 1e6:
        raise BadImage(
            f"too many pixels: {width} x {height}, more than {decoding.max_megapixels:g} megapixels "
            "(data.max_megapixels raises the limit)"
        )
    if image.format == "PNG" and b"IEND" not in data:  # Pillow is content once it has the pixels
        raise BadImage("cannot be decoded: image file is truncated (no end marker)")
    return image


def _identify(data: bytes) -> Image.Image:
    """What `Image.open(formats=FORMATS)` does, less its warning above 89 megapixels: `Decoding` decides here."""
    looks_like = format_of(data[:HEAD])
    if looks_like in NEEDS and not can_read(looks_like):
        raise BadImage(NEEDS[looks_like])
    for name in (*FORMATS, "HEIF") if looks_like == "HEIF" else FORMATS:
        factory, accept = Image.OPEN[name]
        if accept is None or accept(data[:16]):
            with suppress(SyntaxError, IndexError, TypeError, struct.error):  # how plugins say "not mine"
                return factory(io.BytesIO(data), "")
    start = data[:64].lstrip()
    hints = (hint for magic, hint in _LOOKS_LIKE.items() if start.startswith(magic))
    hint = next(hints, "its header is none of theirs")
    raise BadImage(f"not a readable {', '.join(FORMATS)} image ({hint})")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; metadata that cannot be read turns nothing."""
    with suppress(Exception):
        value = image.getexif().get(_ORIENTATION, 1)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1
    return 1


def _plain(image: Image.Image, mode: str, black_white: Range) -> Image.Image:
    """`image` in mode RGB or L with nothing transparent and no metadata (a second turn must not happen)."""
    if is_deep(image.mode):
        kind = "I;16" if image.format == "PPM" else image.mode  # Pillow scales a PGM of any depth above 8 to 16 bits
        image = Image.fromarray(eight_bits(np.asarray(image), kind, black_white))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        # else `convert` would show the colour that editors leave under transparent pixels, which is often black
        image = Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), image)
    image = image.convert(mode)
    image.info.clear()
    return image

"""Which files are images: by their name where it decides, else by their first bytes."""

from __future__ import annotations

import importlib.util
import mimetypes
import os
import threading
from collections.abc import Collection
from contextlib import suppress
from functools import cache
from pathlib import Path

from PIL import (
    BmpImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

# Importing the plugins here registers them once, before any thread decodes; Pillow would else do so lazily.
_PLUGINS = [
    JpegImagePlugin.JpegImageFile,
    PngImagePlugin.PngImageFile,
    WebPImagePlugin.WebPImageFile,
    BmpImagePlugin.BmpImageFile,
    TiffImagePlugin.TiffImageFile,
    PpmImagePlugin.PpmImageFile,
    Jpeg2KImagePlugin.Jpeg2KImageFile,
]
if features.check("avif"):
    from PIL import AvifImagePlugin

    _PLUGINS.append(AvifImagePlugin.AvifImageFile)
FORMATS = tuple(str(plugin.format) for plugin in _PLUGINS)
"""The formats that Pillow decodes here, whatever the file's name says. HEIF comes with the extra `formats`."""

FORMAT_OF = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".jpe": "JPEG",
    ".jp2": "JPEG2000",
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".heic": "HEIF",
    ".heif": "HEIF",
    ".avif": "AVIF",
}
"""Format that a file's name promises, by its ending in lower case."""

SUFFIXES = frozenset(FORMAT_OF)
"""File name endings of samples, in lower case."""

HEAD = 64
"""Bytes at the start of a file that tell its format."""

NEEDS = {
    "HEIF": "HEIC cannot be read: pip install 'finetune-toolkit[formats]', or convert it to JPEG",
    "AVIF": "AVIF cannot be read by this Pillow: install a newer one, or convert it to JPEG",
}
"""Why an image of a format that may be missing cannot be read, with the remedy."""

_SYSTEM = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "__pycache__", "@eadir"})
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
_REGISTERING = threading.Lock()


def is_hidden(name: str) -> bool:
    """Whether a file or folder belongs to the system (`.DS_Store`, `Thumbs.db`, `__MACOSX`, …) and is no data."""
    return name.startswith(".") or name.lower() in _SYSTEM


def is_image_name(name: str) -> bool:
    """Whether a file name ends as a sample's does, in any case."""
    return suffix(name) in SUFFIXES


def suffix(name: str) -> str:
    """The ending of a file name with its dot, in lower case."""
    return os.path.splitext(name)[1].lower()


def is_sample(path: Path, extensions: Collection[str] | None = None) -> bool:
    """Whether a regular file is meant to be an image.

    Its name decides where its ending is one of `SUFFIXES` or that of a known kind of file (`.txt`, `.gif`, `.mp4`).
    Any other file (`photo`, `x.jpg?w=200`) is asked for its first bytes.

    Args:
        path: of the file.
        extensions: the endings of samples, with their dots in lower case ("" for none); then they alone decide.
    """
    ending = suffix(path.name)
    if extensions is not None:
        return ending in extensions
    if ending in SUFFIXES:
        return True
    kind = mimetypes.guess_type("x" + ending)[0] if ending else None
    if ending == ".gif" or (kind is not None and kind != "application/octet-stream"):
        return False
    with suppress(OSError), open(path, "rb") as file:
        return format_of(file.read(HEAD)) is not None
    return False


def format_of(head: bytes) -> str | None:
    """The format that the first bytes of a file tell, of those that are or could be read; None for all others."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PPM"
    if head.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")):
        return "JPEG2000"
    if head[4:8] == b"ftyp" and (b"avif" in head[8:32] or b"avis" in head[8:32]):
        return "AVIF"
    return "HEIF" if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS else None


def can_read(name: str) -> bool:
    """Whether images of a format can be decoded here; the plugin for HEIF is registered on the first call."""
    return name in FORMATS or (name == "HEIF" and _heif())


@cache
def _heif() -> bool:
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    with _REGISTERING:
        import pillow_heif

        pillow_heif.register_heif_opener()
    return "HEIF" in Image.OPEN

"""Makers of what a user may bring: image folders, odd images, bad ones, junk, hostile names, special files."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HOSTILE_NAMES = (
    "=1+2",
    "@sum",
    "<img src=x onerror=alert(1)>",
    "two\nlines",
    "\x1b[31mred",
    "café",
    "  spaces  ",
    "$math^2$",
    "quote'\"",
    os.fsdecode(b"latin-\xe9"),
)
"""Names of files and classes that some table, page, terminal or encoding stumbles over."""


# --- good images -----------------------------------------------------------------------------------------------------


def photo(seed: int = 0, width: int = 24, height: int = 16) -> Image.Image:
    """A small RGB image of smooth colours, another one for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, file_format: str = "JPEG", **options: object) -> bytes:
    """The bytes of an image file."""
    memory = io.BytesIO()
    image.save(memory, file_format, **options)
    return memory.getvalue()


def jpeg(seed: int = 0, width: int = 24, height: int = 16) -> bytes:
    """The bytes of a small JPEG, other ones for each seed."""
    return encoded(photo(seed, width, height))


def put(path: Path, content: bytes) -> Path:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def class_folders(root: Path, counts: Mapping[str, int], seed: int = 0) -> Path:
    """One folder per class with so many JPEGs, no two alike."""
    for index, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            put(root / name / f"{number:03}.jpg", jpeg(seed + 1000 * (index + 1) + number))
    return root


def split_folders(root: Path, splits: Mapping[str, Mapping[str, int]]) -> Path:
    """A split layout: split → class → number of JPEGs, no two alike."""
    for index, (split, counts) in enumerate(splits.items()):
        class_folders(root / split, counts, seed=100_000 * (index + 1))
    return root


def tiny_recipe(folder: Path, test: float, model: Mapping[str, Any], train: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe for an untrained network of 32x32 pixels, in full precision; `model` and `train` add keys."""
    network = {
        "backbone": "timm/test_resnet",
        "weights": "none",
        "weights_missing": "allow",
        "preprocess": {"size": 32},
    }
    return {
        "data": {"folder": str(folder), "split": {"val": 0.25, "test": test}, "augment": "none"},
        "model": {**network, **model},
        "train": {"precision": "fp32", **train},
    }


def tree_hash(root: Path) -> str:
    """A hash over all names, kinds, contents and modification times below a folder."""
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(os.fsencode(root)):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            digest.update(b"%s %d %d %d\n" % (path, status.st_mode, status.st_size, status.st_mtime_ns))
            if os.path.isfile(path) and not os.path.islink(path):
                digest.update(Path(os.fsdecode(path)).read_bytes())
    return digest.hexdigest()


def idx_files(root: Path, train: int = 200, test: int = 50, seed: int = 0) -> Path:
    """A tiny MNIST: random strokes of every class, in the four files that torchvision reads."""
    rng = np.random.default_rng(seed)
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", train), ("t10k", test)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = np.zeros((count, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):  # a bar whose place tells the class
            image[4 + 2 * label : 7 + 2 * label, 6:22] = 255
        images[:, 6:22, 10:12] = rng.integers(0, 256, (count, 16, 2))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + labels.tobytes())
    return root


# --- odd but good images ---------------------------------------------------------------------------------------------


def turned_jpeg(orientation: int, image: Image.Image) -> bytes:
    """`image` as a JPEG whose EXIF orientation says how it lies."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, "JPEG", exif=exif, quality=95)


def animation(file_format: str, frames: int = 3) -> bytes:
    """An animated WebP, GIF or PNG."""
    first, *rest = [photo(seed) for seed in range(frames)]
    return encoded(first, file_format, save_all=True, append_images=rest)


def odd_images(folder: Path) -> list[Path]:
    """Images of unusual kinds, all of them good."""
    see_through = photo(3).convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(see_through.size))
    palette = photo(4).convert("P", palette=Image.Palette.ADAPTIVE)
    ramp = np.arange(256 * 8, dtype=np.uint16).reshape(8, 256) * 32
    contents = {
        "cmyk.jpg": encoded(photo(1).convert("CMYK")),
        "grey.jpg": encoded(photo(2).convert("L")),
        "exif6.jpg": turned_jpeg(6, photo(5)),
        "progressive.JPEG": encoded(photo(6), progressive=True),
        "UPPER.JPG": jpeg(7),
        "png_inside.jpg": encoded(photo(8), "PNG"),
        "rgba.png": encoded(see_through, "PNG"),
        "la.png": encoded(see_through.convert("LA"), "PNG"),
        "palette_alpha.png": encoded(palette, "PNG", transparency=bytes(range(256))),
        "palette_colour.png": encoded(palette, "PNG", transparency=0),
        "one_bit.png": encoded(photo(9).convert("1"), "PNG"),
        "ramp16.png": encoded(Image.fromarray(ramp), "PNG"),
        "ramp16.tif": encoded(Image.fromarray(ramp), "TIFF"),
        "float.tiff": encoded(Image.fromarray(ramp.astype(np.float32) / 65535), "TIFF"),
        "animated.webp": animation("WEBP"),
        "still.webp": encoded(photo(10), "WEBP"),
        "plain.bmp": encoded(photo(11), "BMP"),
        "plain.ppm": encoded(photo(12), "PPM"),
        "grey.pgm": encoded(photo(13).convert("L"), "PPM"),
        "dot.png": encoded(photo(14, 1, 1), "PNG"),
        "thread.png": encoded(photo(15, 1, 30_000), "PNG"),
    }
    return [put(folder / name, content) for name, content in contents.items()]


# --- bad images ------------------------------------------------------------------------------------------------------


def png_of_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG made of (type, content) chunks, checksums right."""
    whole = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        whole += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return whole


def png_bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises `width` x `height` pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return png_of_chunks((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))


def text_bomb() -> bytes:
    """A PNG of 1 x 1 pixel with a comment of 8 MB, compressed to some 8 KB."""
    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    comment = b"Comment\x00\x00" + zlib.compress(b"a" * 8_000_000, 9)
    return png_of_chunks((b"IHDR", header), (b"zTXt", comment), (b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b""))


def bad_images(folder: Path) -> dict[str, str]:
    """Files named as images that are none; file name → a part of the reason that must be given."""
    whole, png = jpeg(1, 96, 64), encoded(photo(2, 96, 64), "PNG")
    contents = {
        "zero.jpg": (b"", "empty file"),
        "truncated.jpg": (whole[: len(whole) // 2], "truncated"),
        "no_end.jpg": (whole[:-2], "truncated"),
        "cut.png": (png[: len(png) // 2], "truncated"),
        "no_end.png": (png[:-12], "truncated"),
        "cut.webp": (encoded(photo(3, 96, 64), "WEBP")[:-20], "decode"),
        "cut.bmp": (encoded(photo(3), "BMP")[:-20], "truncated"),
        "page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        "text.png": (b"just words", "not a readable"),
        "eps.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n", "PostScript"),
        "gif.jpg": (encoded(photo(4), "GIF"), "GIF"),
        "text_bomb.png": (text_bomb(), "decode"),
        "bomb400.png": (png_bomb(20_000, 20_000), "too many pixels"),
        "bomb144.png": (png_bomb(12_000, 12_000), "too many pixels"),
    }
    for name, (content, _) in contents.items():
        put(folder / name, content)
    return {name: reason for name, (_, reason) in contents.items()}


# --- what is no sample -----------------------------------------------------------------------------------------------


def junk(root: Path, class_name: str) -> None:
    """What operating systems and notebooks leave behind, in `root` and in one of its class folders."""
    for folder in (root, root / class_name):
        put(folder / ".DS_Store", b"\0\0\0\1Bud1")
        put(folder / "Thumbs.db", b"\xd0\xcf\x11\xe0")
        put(folder / "desktop.ini", b"[.ShellClassInfo]")
        put(folder / "._x.jpg", b"\0\5\26\7")
        put(folder / ".ipynb_checkpoints" / "x-checkpoint.jpg", jpeg(50))
        put(folder / "__MACOSX" / "._y.jpg", b"\0\5\26\7")
        put(folder / "__MACOSX" / "y.jpg", jpeg(51))


def special_files(root: Path, class_name: str) -> None:
    """A FIFO and links in circles; none of them adds an image or hangs a scan."""
    folder = root / class_name
    os.mkfifo(folder / "pipe.jpg")
    (folder / "here").symlink_to(".")
    (folder / "up").symlink_to("..")
    (root / "all_again").symlink_to(".")


def bad_links(root: Path, class_name: str, outside: Path) -> dict[str, str]:
    """Links that lead nowhere, or out of `root` (bad where links are refused); path → a part of the reason."""
    put(outside / "secret.jpg", jpeg(60))
    folder = root / class_name
    (folder / "dangling.jpg").symlink_to("nothing.jpg")
    (folder / "circle.jpg").symlink_to("circle.jpg")
    (folder / "out.jpg").symlink_to(outside / "secret.jpg")
    (folder / "out_folder").symlink_to(outside)
    (root / "out_class").symlink_to(outside)
    return {
        f"{class_name}/dangling.jpg": "link to nothing",
        f"{class_name}/circle.jpg": "link in a circle",
        f"{class_name}/out.jpg": "data.links is refuse",
        f"{class_name}/out_folder": "data.links is refuse",
        "out_class": "data.links is refuse",
    }

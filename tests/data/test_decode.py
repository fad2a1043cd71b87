"""One decode function: what it makes of odd images, and what it refuses."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image, ImageFile

from finetune.data import decode as module
from finetune.data.decode import decode, inspect, read
from finetune.errors import BadImage, ResourceError
from tests import makers


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def test_every_odd_image_becomes_rgb_and_grey(tmp_path: Path) -> None:
    paths = makers.odd_images(tmp_path)
    assert paths
    for path in paths:
        rgb, grey = decode(path, "RGB"), decode(path, "L")
        assert (rgb.mode, grey.mode) == ("RGB", "L")
        assert rgb.size == grey.size == (inspect(read(path)).width, inspect(read(path)).height)


def test_a_plain_image_keeps_its_pixels() -> None:
    image = makers.photo(1)
    assert (pixels(decode(makers.encoded(image, "PNG"), "RGB")) == pixels(image)).all()


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_keep_256_levels(file_format: str) -> None:
    ramp = np.linspace(0, 65535, 2048).astype(np.uint16).reshape(8, 256)
    grey = pixels(decode(makers.encoded(Image.fromarray(ramp), file_format), "L"))
    assert set(grey.ravel()) == set(range(256))
    assert np.abs(grey - ramp / 257).max() <= 0.5


def test_big_endian_sixteen_bits() -> None:
    ramp = np.linspace(0, 65535, 256).astype(">u2").reshape(16, 16)
    whole = b"P5 16 16 65535\n" + ramp.tobytes()
    assert list(pixels(decode(whole, "L")).ravel()) == list(range(256))


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (np.float32([[0, 0.5, 1]]), [0, 128, 255]),
        (np.float32([[0, 100, 255]]), [0, 100, 255]),
        (np.float32([[-1, 0, 1]]), [0, 128, 255]),
        (np.float32([[7, 7, 7]]), [7, 7, 7]),
        (np.int32([[0, 10, 200]]), [0, 10, 200]),
        (np.int32([[0, 25700, 65535]]), [0, 100, 255]),
        (np.int32([[-100, 0, 100]]), [0, 128, 255]),
    ],
)
def test_levels_of_32_bits(levels: np.ndarray, expected: list[int]) -> None:
    assert pixels(decode(makers.encoded(Image.fromarray(levels), "TIFF"), "L")).ravel().tolist() == expected


def test_values_that_are_not_finite_are_refused() -> None:
    levels = np.float32([[0, np.nan, 1]])
    with pytest.raises(BadImage, match="not finite"):
        decode(makers.encoded(Image.fromarray(levels), "TIFF"), "L")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    if mode == "P":
        whole = makers.encoded(Image.new("P", (2, 1), 0), "PNG", transparency=0)
        assert (pixels(decode(whole, "RGB")) == 255).all()
    else:
        assert pixels(decode(makers.encoded(image.convert(mode), "PNG"), "L")).tolist() == [[255, 0]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_makes_upright(orientation: int) -> None:
    image = makers.photo(3, 48, 32)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that lays the upright image as it is stored
    stored = image.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else image
    got = decode(makers.turned_jpeg(orientation, stored), "RGB")
    assert got.size == image.size
    assert np.abs(pixels(got) - pixels(image)).mean() < 4
    assert not got.getexif(), "a second turn must not be possible"
    facts = inspect(makers.turned_jpeg(orientation, stored))
    assert (facts.width, facts.height) == image.size


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_exif_that_cannot_be_read_turns_nothing() -> None:
    whole = makers.encoded(makers.photo(3), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(whole, "RGB").size == (24, 16)


@pytest.mark.parametrize("file_format", ["WEBP", "PNG"])
def test_the_first_frame_counts(file_format: str) -> None:
    whole = makers.animation(file_format)
    assert np.abs(pixels(decode(whole, "RGB")) - pixels(makers.photo(0))).mean() < 12
    assert inspect(whole).animated


def test_draft_is_never_smaller_than_asked() -> None:
    whole = makers.jpeg(1, 640, 400)
    assert decode(whole, "RGB", draft=(80, 50)).size == (80, 50)
    assert decode(whole, "RGB", draft=(81, 50)).size == (160, 100)
    assert decode(whole, "RGB", draft=(2000, 2000)).size == (640, 400)
    turned = makers.turned_jpeg(6, makers.photo(1, 640, 400))
    assert decode(turned, "RGB", draft=(100, 160)).size == (100, 160)
    assert decode(makers.encoded(makers.photo(1), "PNG"), "RGB", draft=(1, 1)).size == (24, 16)


def whole(path: Path) -> object:
    return decode(path, "RGB")


def reduced(path: Path) -> object:
    return decode(path, "L", draft=(8, 8))


def scanned(path: Path) -> object:
    return inspect(read(path))


def test_bad_images_are_refused_with_a_reason_whatever_the_scale(tmp_path: Path) -> None:
    reasons = makers.bad_images(tmp_path)
    assert reasons
    for name, reason in reasons.items():
        for attempt in (whole, reduced, scanned):
            with pytest.raises(BadImage, match=reason) as caught:
                attempt(tmp_path / name)
            assert len(caught.value.problems) == 1
            assert "0x" not in caught.value.problems[0], "no address of an object"
            assert "\n" not in caught.value.problems[0]


def test_a_jpeg_cut_anywhere_is_found() -> None:
    for whole in (makers.jpeg(1, 64, 48), makers.encoded(makers.photo(1, 64, 48), progressive=True)):
        for length in range(0, len(whole), 7):
            with pytest.raises(BadImage):
                inspect(whole[:length])


@pytest.mark.filterwarnings("ignore")
def test_random_damage_is_a_bad_image_or_an_image() -> None:
    rng = np.random.default_rng(0)
    for file_format in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM"):
        whole = makers.encoded(makers.photo(1), file_format)
        for _ in range(40):
            damaged = bytearray(whole)
            for at in rng.integers(0, len(whole), 4):
                damaged[at] = rng.integers(256)
            with suppress(BadImage):
                assert decode(bytes(damaged), "RGB").mode == "RGB"


def test_a_fifo_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    reasons: list[str] = []

    def attempt() -> None:
        try:
            decode(tmp_path / "pipe.jpg", "RGB")
        except BadImage as error:
            reasons.append(str(error))

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(5)
    assert reasons == ["not a regular file"]


def test_files_that_cannot_be_read_name_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadImage, match="ENOENT"):
        decode(tmp_path / "none.jpg", "RGB")
    with pytest.raises(BadImage, match="not a regular file"):
        decode(tmp_path, "RGB")
    path = makers.put(tmp_path / "a.jpg", makers.jpeg())

    for number, kind in ((errno.EIO, BadImage), (errno.EACCES, BadImage), (errno.EMFILE, ResourceError)):
        monkeypatch.setattr(os, "open", Mock(side_effect=OSError(number, os.strerror(number))))
        with pytest.raises(kind, match=errno.errorcode[number]):
            decode(path, "RGB")


def test_too_large_a_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    path = makers.put(tmp_path / "a.jpg", makers.jpeg())
    for source in (path, path.read_bytes()):
        with pytest.raises(BadImage, match="too large"):
            decode(source, "RGB")


def test_nothing_global_is_changed() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    decode(makers.jpeg(), "RGB")
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES) == (89_478_485, False)


def test_large_images_are_scaled_strip_by_strip() -> None:
    levels = np.arange(1500 * 1000, dtype=np.uint16).reshape(1500, 1000)
    got = pixels(decode(makers.encoded(Image.fromarray(levels), "PNG"), "L"))
    assert (got == np.rint(levels / 257)).all()

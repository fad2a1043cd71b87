"""The same structure in another colour is another picture; a changed copy of a picture keeps its colours."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageEnhance, ImageOps

from finetune.data.colours import other_colours
from tests.makers import encoded, photo, put

PHOTO = photo(3, 96, 80)


def repainted(image: Image.Image) -> Image.Image:
    red, green, blue = image.split()
    return Image.merge("RGB", (blue, red, green))


@pytest.mark.parametrize(
    ("change", "other"),
    [
        (lambda image: image, False),
        (ImageOps.mirror, False),
        (lambda image: image.crop((5, 0, 96, 76)), False),
        (lambda image: image.resize((40, 33)), False),
        (lambda image: ImageEnhance.Brightness(image).enhance(0.9), False),
        (lambda image: image.convert("L"), False),  # a grey copy is a copy
        (repainted, True),
        (lambda image: ImageOps.mirror(repainted(image)), True),
    ],
)
def test_colours_are_other_ones_only_where_they_are(change, other: bool, tmp_path: Path) -> None:
    first = put(tmp_path / "a.png", encoded(PHOTO, "PNG"))
    changed = change(PHOTO)
    second = put(tmp_path / "b.jpg", encoded(changed, "JPEG", quality=60))
    mirrored = change is ImageOps.mirror
    assert other_colours(first, second, mirrored=mirrored) is other
    assert other_colours(second, first, mirrored=mirrored) is other


def test_what_cannot_be_read_is_left_to_the_structure(tmp_path: Path) -> None:
    good = put(tmp_path / "a.png", encoded(PHOTO, "PNG"))
    assert not other_colours(good, put(tmp_path / "b.png", b"no"), mirrored=False)

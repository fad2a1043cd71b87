"""Augmentation: a pure function of (seed, view, content), inside the picture, and as strong as its name."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from finetune.data.augment import DRAWS, STRENGTHS, Augment, _draws, crop_box
from finetune.data.preprocess import Preprocess
from finetune.errors import UsageError

PREPROCESS = Preprocess((32, 32), interpolation="bilinear", crop=0.875)
HASHES = [f"{i:064x}" for i in range(1, 400)]


def picture(width: int = 60, height: int = 40) -> Image.Image:
    """Red grows to the right, green downwards: every pixel tells where it came from."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 255 // width, y * 255 // height, x * 0 + 99], -1).astype(np.uint8))


def test_none_is_the_picture_as_evaluated() -> None:
    augment = Augment("none")
    assert not augment.random
    seen = augment.view(picture(), PREPROCESS, 3, 4, HASHES[0])
    np.testing.assert_array_equal(seen, PREPROCESS.evaluate(picture()))


@pytest.mark.parametrize("name", ["light", "strong"])
def test_a_view_is_a_pure_function_of_its_keys(name: str) -> None:
    augment = Augment(name)
    keys = list(itertools.product((0, 1, 2**40), (0, 1, 7), HASHES[:3]))
    first = [augment.view(picture(), PREPROCESS, *key) for key in keys]
    np.random.seed(5)
    again = [augment.view(picture(), PREPROCESS, *key) for key in reversed(keys)][::-1]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len({seen.tobytes() for seen in first}) == len(keys)


def test_views_stay_what_they_were() -> None:
    # A run resumed after an upgrade must see the same views; the numbers are those of the first version.
    light = STRENGTHS["light"]
    assert light is not None
    draws = _draws(3, 5, "ab" * 32)
    box = crop_box(300, 200, 1.0, light, draws)
    assert box == pytest.approx(
        (69.53493596845327, 20.671385471667143, 212.18900952598642, 180.1878446693929), rel=1e-12
    )
    assert next(draws) == 0.7783131063345625


@pytest.mark.parametrize("name", list(STRENGTHS))
@pytest.mark.parametrize("size", [(1, 1), (1, 30_000), (30_000, 1), (7, 5), (500, 333)])
def test_every_shape_gives_the_size_of_the_network(name: str, size: tuple[int, int]) -> None:
    seen = Augment(name).view(Image.new("RGB", size, (10, 200, 30)), PREPROCESS, 0, 0, HASHES[0])
    assert seen.shape == (32, 32, 3)
    assert seen.dtype == np.uint8


@pytest.mark.parametrize("name", list(STRENGTHS))
def test_grey_pictures_stay_grey(name: str) -> None:
    preprocess = Preprocess((28, 28), (0.1307,), (0.3081,), "bilinear", 1.0)
    views = [Augment(name).view(picture().convert("L"), preprocess, 0, 0, sha256) for sha256 in HASHES[:20]]
    assert {seen.shape for seen in views} == {(28, 28, 1)}


@given(
    width=st.integers(1, 3000),
    height=st.integers(1, 3000),
    aspect=st.sampled_from([0.25, 1.0, 3.0]),
    name=st.sampled_from(["light", "strong"]),
    draws=st.lists(st.floats(0, 1, exclude_max=True), min_size=DRAWS, max_size=DRAWS),
)
def test_the_crop_lies_inside_the_picture(
    width: int, height: int, aspect: float, name: str, draws: list[float]
) -> None:
    strength = STRENGTHS[name]
    assert strength is not None
    left, upper, right, lower = crop_box(width, height, aspect, strength, iter(draws))
    assert -1e-6 <= left < right <= width * (1 + 1e-12)
    assert -1e-6 <= upper < lower <= height * (1 + 1e-12)
    assert (right - left) / (lower - upper) / aspect == pytest.approx(1.0, rel=0.34)


def test_light_keeps_at_least_a_third_of_the_area_and_flips_half_the_time() -> None:
    big = picture(600, 400)
    views = [Augment("light").view(big, PREPROCESS, 0, 0, sha256).astype(int) for sha256 in HASHES]
    across = np.array([seen[16, -1, 0] - seen[16, 0, 0] for seen in views]) / 255
    down = np.array([seen[-1, 16, 1] - seen[0, 16, 1] for seen in views]) / 255
    flipped = across < 0
    assert 0.42 < flipped.mean() < 0.58
    area = np.abs(across) * down / (31 / 32) ** 2
    assert area.min() > 0.33
    assert area.max() > 0.6
    assert (down > 0).all()


def test_every_part_of_a_narrow_picture_is_seen() -> None:
    views = [Augment("light").view(picture(4000, 20), PREPROCESS, 0, 0, sha256)[:, :, 0].mean() for sha256 in HASHES]
    assert min(views) < 40
    assert max(views) > 215


def test_strong_erases_a_quarter_with_the_mean() -> None:
    flat = Image.new("RGB", (64, 64), (200, 200, 200))
    fill = np.round(255 * np.array(PREPROCESS.mean)).astype(np.uint8)
    views = [Augment("strong").view(flat, PREPROCESS, 0, 0, sha256) for sha256 in HASHES]
    # Corners that the rotation leaves open have the same colour, so only the middle is looked at.
    erased = np.array([(seen[8:24, 8:24] == fill).all(axis=-1).any() for seen in views])
    assert 0.12 < erased.mean() < 0.3
    assert len({tuple(seen[16, 16]) for seen in views}) > 50  # jitter


def test_the_draft_leaves_the_smallest_crop_its_pixels() -> None:
    for name in ("light", "strong"):
        strength = STRENGTHS[name]
        assert strength is not None
        side = Augment(name).draft(PREPROCESS)[0]
        assert side >= PREPROCESS.draft[0]
        assert side * (strength.scale[0] * strength.ratio[0]) ** 0.5 >= 32
    assert Augment("none").draft(PREPROCESS) == PREPROCESS.draft


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'lihgt' is not known .did you mean 'light'"):
        Augment("lihgt")


def test_the_record_tells_names_from_numbers() -> None:
    assert Augment("none").as_dict() == {"name": "none"}
    light = Augment("light").as_dict()
    assert light["scale"] == (0.35, 1.0)
    assert light != Augment("strong").as_dict()

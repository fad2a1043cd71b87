"""The picture of the layers and the curves of the gradient: whole, of every kind of layer, and safe with any name."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace
from importlib import resources
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.evaluate.activations import Activation, Passage
from finetune.report.features import features_png, shape_text
from finetune.report.gradients import charts, comparison, series

random = np.random.default_rng(0)


def values(*shape: int) -> np.ndarray:
    return random.normal(size=shape).astype(np.float32)


MAPS = Activation("layer1", (12, 9, 6), "maps", values(12, 9, 6))
PATCHES = Activation("blocks.0", (17, 20), "maps", values(20, 4, 4))
TOKENS = Activation("blocks.1", (7, 20), "tokens", values(7, 20))
LONG = Activation("features.some.very.long.name.of.a.group", (1000,), "vector", values(1000))
BARS = Activation("fc1", (6,), "vector", values(6), values(6, 3, 8, 8))
HEAD = Activation("head", (3,), "vector", values(3))


def passage(*activations: Activation, **more: Any) -> Passage:
    pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Passage("a/b.jpg", pixels, list(activations), ["ant", "bee", "cat"], np.array([0.7, 0.2, 0.1]), **more)


def opened(png: bytes) -> Image.Image:
    with Image.open(io.BytesIO(png)) as image:
        image.load()
        assert image.format == "PNG"
        return image.convert("RGB")


def test_every_kind_of_layer_is_drawn_and_adds_its_height() -> None:
    whole = opened(features_png(passage(MAPS, PATCHES, TOKENS, LONG, BARS, HEAD, truth="bee")))
    fewer = opened(features_png(passage(MAPS, HEAD)))
    assert whole.width == fewer.width
    assert whole.height > fewer.height + 400


def test_the_same_passage_gives_the_same_bytes() -> None:
    one = passage(MAPS, BARS, HEAD)
    assert features_png(one) == features_png(one)


def test_on_a_dark_page_paper_and_writing_are_the_pages_own_and_pictures_stay() -> None:
    one = passage(MAPS, PATCHES, TOKENS, LONG, BARS, HEAD)
    light, dark = (np.asarray(opened(features_png(one, dark=dark))).astype(int) for dark in (False, True))
    assert light.shape == dark.shape
    assert light[2, 2].tolist() == [255, 255, 255]
    css = resources.files("finetune.report").joinpath("page.css").read_text("utf-8")
    assert "#{:02x}{:02x}{:02x}".format(*dark[2, 2].tolist()) in css.partition("prefers-color-scheme: dark")[2]
    assert dark.mean() < 0.6 * light.mean()
    photograph = np.s_[45:250, 45:250]  # inside the picture in the upper left corner
    assert np.abs(light[photograph] - dark[photograph]).mean() < 12, "in 256 colours each"
    assert dark[:, 300:].max() > 200, "writing is light"


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf, 0.0])
def test_a_broken_or_silent_network_is_drawn_all_the_same(broken: float) -> None:
    silent = [replace(one, values=np.full_like(one.values, broken)) for one in (MAPS, TOKENS, LONG, BARS, HEAD)]
    opened(features_png(replace(passage(*silent), probabilities=np.full(3, np.nan))))


def test_at_most_so_many_groups_from_the_first_to_the_last() -> None:
    many = [replace(MAPS, group=f"blocks.{number}") for number in range(20)]
    five = opened(features_png(passage(*many, HEAD), most=5))
    assert five.height < opened(features_png(passage(*many[:6], HEAD))).height


def test_hostile_names_are_text() -> None:
    names = ["$\\frac{1}{2$", "two\nlines\x1b[31m", "<b>", "a" * 300]
    hostile = [replace(MAPS, group=name) for name in names]
    opened(features_png(replace(passage(*hostile, HEAD, truth=names[0]), classes=names[:3], name="x/" + names[1])))


def test_grey_pictures_and_wide_ones() -> None:
    for shape in ((8, 8, 1), (4, 16, 3), (16, 4, 1)):
        opened(features_png(replace(passage(MAPS, HEAD), pixels=np.zeros(shape, np.uint8))))


def test_shapes_in_words() -> None:
    assert [shape_text(one) for one in (MAPS, PATCHES, TOKENS, HEAD)] == [
        "12 maps of 9 × 6",
        "17 tokens of 20",
        "7 tokens of 20",
        "3 values",
    ]


# --- the gradient ----------------------------------------------------------------------------------------------------

ROWS: list[dict[str, Any]] = [
    {"epoch": 0, "val_loss": 1.0, "grad:fc1": None, "grad:fc2": None, "grad:head": 2.0},
    {"epoch": 1, "val_loss": 1.0, "grad:fc1": None, "grad:fc2": 2e-7, "grad:head": 1.0},
    {"epoch": 2, "val_loss": 1.0, "grad:fc1": None, "grad:fc2": 1e-7, "grad:head": 1.0},
]


def test_the_norms_come_in_forward_order_by_epochs_from_1_without_what_never_learned() -> None:
    assert series(ROWS) == {"fc2": [(2, 2e-7), (3, 1e-7)], "head": [(1, 2.0), (2, 1.0), (3, 1.0)]}
    assert comparison(ROWS) == "In the last epoch, that of fc2 was 1/10,000,000 of that of head."


def test_all_curves_are_on_one_logarithmic_scale() -> None:
    found = {one["group"]: str(one["picture"]) for one in charts(ROWS)}
    assert list(found) == ["fc2", "head"]
    places = {group: [float(y) for y in re.findall(r'cy="([\d.]+)"', svg)] for group, svg in found.items()}
    assert len({tuple(re.findall(r">(10[^<]+)<", svg)) for svg in found.values()}) == 1
    decade = (places["fc2"][1] - places["head"][2]) / 7
    assert places["fc2"][1] - places["fc2"][0] == pytest.approx(decade * math.log10(2), abs=0.11)


def test_a_dead_group_and_a_report_of_old_draw_nothing() -> None:
    assert charts([{"epoch": 0, "val_loss": 1.0}]) == []
    assert charts([]) == []
    assert comparison([]) == ""
    dead = [{"epoch": 0, "grad:fc1": 0.0, "grad:head": 0.5}]
    assert [one["group"] for one in charts(dead)] == ["fc1", "head"]
    assert comparison(dead) == "In the last epoch, that of fc1 was none of that of head."
    assert charts([{"epoch": 0, "grad:fc1": 0.0}]) == []


def test_a_groups_name_is_escaped() -> None:
    svg = charts([{"epoch": 0, 'grad:"><script>': 0.1, "grad:head": 0.5}])[0]["picture"]
    assert "<script>" not in svg

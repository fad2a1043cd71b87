"""Preprocessing: geometry against the usual two-step transform, normalisation against its formula."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.data.decode import decode
from finetune.data.preprocess import INTERPOLATIONS, Preprocess
from finetune.errors import UsageError


def photograph(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Smooth waves with some noise: something that a resize can get right or wrong."""
    y, x = np.mgrid[:height, :width]
    waves = [127 + 90 * np.sin(x / (11 + c) + y / 17 + c) for c in range(3)]
    noise = np.random.default_rng(0).normal(0, 10, (height, width, 3))
    return Image.fromarray((np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 300), (640, 641)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_evaluate_is_resize_of_the_short_side_then_centre_crop(width: int, height: int, interpolation: str) -> None:
    image = photograph(width, height)
    preprocess = Preprocess((112, 112), interpolation=interpolation, crop=0.875)
    short = 128 / min(width, height)
    middle = image.resize((round(width * short), round(height * short)), INTERPOLATIONS[interpolation])
    left, upper = (middle.width - 112) // 2, (middle.height - 112) // 2
    expected = np.asarray(middle.crop((left, upper, left + 112, upper + 112))).astype(int)
    seen = preprocess.evaluate(image)
    assert seen.shape == (112, 112, 3)
    assert seen.dtype == np.uint8
    # The crop of the two-step way lies on whole pixels, this one's does not: half a pixel of shift is allowed.
    assert np.abs(seen.astype(int) - expected).mean() < 4


def test_a_picture_of_the_right_size_is_left_as_it_is() -> None:
    image = photograph(28, 28, "L")
    preprocess = Preprocess((28, 28), mean=(0.1307,), std=(0.3081,), interpolation="bilinear", crop=1.0)
    seen = preprocess.evaluate(image)
    assert seen.shape == (28, 28, 1)
    np.testing.assert_array_equal(seen[:, :, 0], np.asarray(image))


def test_a_target_that_is_not_square_is_covered() -> None:
    image = photograph(400, 100)
    image.paste((0, 0, 0), (0, 0, 60, 100))  # outside the crop: 200 of the 400 columns remain, those in the middle
    seen = Preprocess((50, 100), crop=1.0, interpolation="box").evaluate(image)
    assert seen.shape == (50, 100, 3)
    np.testing.assert_array_equal(
        seen, np.asarray(image.crop((100, 0, 300, 100)).resize((100, 50), Image.Resampling.BOX))
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 30_000), (30_000, 1), (2, 3)])
def test_tiny_and_narrow_pictures_work(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (10, 200, 30))
    seen = Preprocess((224, 224)).evaluate(image)
    np.testing.assert_array_equal(seen, np.broadcast_to(np.uint8([10, 200, 30]), (224, 224, 3)))


@pytest.mark.parametrize(("mean", "std"), [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.1307,), (0.3081,))])
def test_normalise_is_the_formula_in_channels_last(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    batch = torch.randint(0, 256, (3, 7, 5, len(mean)), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = batch.clone()
    normal = Preprocess((7, 5), mean, std).normalise(batch)
    expected = (before.double() / 255 - torch.tensor(mean, dtype=torch.float64)) / torch.tensor(
        std, dtype=torch.float64
    )
    assert normal.shape == (3, len(mean), 7, 5)
    assert normal.dtype == torch.float32
    assert normal.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(normal.permute(0, 2, 3, 1).double(), expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(batch, before)


def test_normalise_of_no_image() -> None:
    assert Preprocess((4, 4)).normalise(torch.empty((0, 4, 4, 3), dtype=torch.uint8)).shape == (0, 3, 4, 4)


def test_a_row_of_the_batch_does_not_depend_on_the_others() -> None:
    batch = torch.randint(0, 256, (5, 9, 9, 3), dtype=torch.uint8)
    preprocess = Preprocess((9, 9))
    assert torch.equal(preprocess.normalise(batch)[3:4], preprocess.normalise(batch[3:4]))


def test_the_draft_leaves_twice_what_the_resize_needs() -> None:
    image = photograph(2400, 1800)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    preprocess = Preprocess((112, 112), crop=0.875)
    drafted = decode(file.getvalue(), "RGB", draft=preprocess.draft)
    assert 2 * 112 / 0.875 <= min(drafted.size) < 1800
    whole = preprocess.evaluate(decode(file.getvalue(), "RGB")).astype(int)
    difference = np.abs(preprocess.evaluate(drafted).astype(int) - whole)
    assert difference.mean() < 0.5
    assert difference.max() <= 8


def test_it_goes_through_json_and_back() -> None:
    preprocess = Preprocess((192, 256), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", 0.9)
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.as_dict()))) == preprocess
    assert Preprocess.from_dict({"size": 32}) == Preprocess((32, 32))


def test_one_channel_means_grey() -> None:
    assert Preprocess((28, 28), (0.1,), (0.3,)).mode == "L"
    assert (Preprocess((28, 28)).mode, Preprocess((28, 28)).channels) == ("RGB", 3)


def test_every_wrong_value_is_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        Preprocess((0, 224), (0.5, float("nan"), 0.5), (0.5, 0.0, 0.5), "bicubc", 4.5)
    lines = caught.value.problems
    assert [line.split(":")[0].removeprefix("preprocess.") for line in lines] == [
        "size",
        "mean",
        "std",
        "interpolation",
        "crop",
    ]
    assert "did you mean 'bicubic'" in lines[3]


def test_a_crop_above_one_leaves_a_black_margin() -> None:
    white = Image.new("L", (8, 8), 255)
    seen = Preprocess((28, 28), (0.1,), (0.3,), "box", 1.4).evaluate(white)[:, :, 0].copy()
    assert seen[4:24, 4:24].min() == 255
    seen[4:24, 4:24] = 0
    assert seen.max() == 0
    wide = Preprocess((20, 20), (0.1,), (0.3,), "box", 2.0).evaluate(Image.new("L", (30, 10), 255))[:, :, 0]
    assert (wide[5:15] == 255).all()  # the short side fills a half; what is longer reaches to the edge
    assert not wide[:5].any()
    assert not wide[15:].any()


def test_means_and_deviations_must_be_as_many() -> None:
    with pytest.raises(UsageError, match=r"std: has 1 values, preprocess.mean has 3"):
        Preprocess((8, 8), (0.5, 0.5, 0.5), (0.5,))


def test_an_unknown_key_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"preprocess.siz: unknown key \(did you mean 'size'"):
        Preprocess.from_dict({"siz": 3})

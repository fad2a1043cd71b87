"""The graph that prepares a picture inside classifier.onnx, against Pillow's own resize."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image

from finetune.data.preprocess import INTERPOLATIONS, Preprocess
from finetune.deliver.export.graph import OPSET
from finetune.deliver.export.picture import picture_graph
from finetune.deliver.export.runtime import session

SIZES = ((300, 200), (28, 28), (1, 1), (1, 60), (60, 2), (220, 300), (151, 77), (64, 64), (448, 448))
"""Width and height: landscape and portrait, as large as the result or twice, and hardly a picture."""


def prepared(preprocess: Preprocess) -> onnxruntime.InferenceSession:
    graph = picture_graph(preprocess)
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["height", "width", 3])
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, preprocess.channels, *preprocess.size])
    model = helper.make_model(
        helper.make_graph(graph.nodes, "picture", [image], [pixels], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    return session(model.SerializeToString())


def levels(preprocess: Preprocess, pixels: np.ndarray) -> np.ndarray:
    """What was normalised, as whole levels [H, W, C]."""
    mean, std = (np.reshape(values, (-1, 1, 1)) for values in (preprocess.mean, preprocess.std))
    return np.rint((pixels[0] * std + mean) * 255).transpose(1, 2, 0).astype(int)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(
    ("size", "crop", "mean"),
    [((224, 224), 0.875, (0.485, 0.456, 0.406)), ((28, 28), 1.0, (0.13,)), ((96, 64), 1.3, (0.5, 0.5, 0.5))],
)
def test_a_picture_is_prepared_as_pillow_does_it(
    interpolation: str, size: tuple[int, int], crop: float, mean: tuple[float, ...]
) -> None:
    preprocess = Preprocess(size, mean, (0.25,) * len(mean), interpolation, crop)
    run, random = prepared(preprocess), np.random.default_rng(0)
    for width, height in SIZES:
        image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected = preprocess.evaluate(Image.fromarray(image).convert(preprocess.mode)).astype(int)
        got = levels(preprocess, run.run(None, {"image": image})[0])
        difference = np.abs(got - expected)
        # of noise, the hardest of pictures; small ratios put many levels on a half, where a sum's order decides
        assert difference.max() <= 1, (width, height)
        assert (difference > 0).mean() < 0.02, (width, height)


def test_a_grey_picture_stays_as_it_is() -> None:
    preprocess = Preprocess((28, 28), (0.1307,), (0.3081,), "bilinear", 1.0)
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 1), dtype=np.uint8)
    got = levels(preprocess, prepared(preprocess).run(None, {"image": np.repeat(image, 3, axis=2)})[0])
    assert np.array_equal(got, image)


@pytest.mark.parametrize("mean", [(0.485, 0.456, 0.406), (0.13,)])
@pytest.mark.parametrize("crop", [1.0, 0.8, 1.3])
@pytest.mark.parametrize("mode", ["squash", "border"])
def test_what_does_not_fit_is_squashed_or_gets_a_margin_as_in_training(
    mode: str, crop: float, mean: tuple[float, ...]
) -> None:
    preprocess = Preprocess((96, 64), mean, (0.25,) * len(mean), crop=crop, crop_mode=mode)
    run, random = prepared(preprocess), np.random.default_rng(0)
    centre = Preprocess((96, 64), mean, (0.25,) * len(mean), crop=crop)
    for width, height in ((301, 97), (35, 222), (71, 48)):
        coarse = random.integers(0, 256, (7, 7, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        expected = preprocess.evaluate(image.convert(preprocess.mode)).astype(int)
        difference = np.abs(levels(preprocess, run.run(None, {"image": np.asarray(image)})[0]) - expected)
        assert difference.max() <= 1, (width, height)
        assert (difference > 0).mean() < 0.01, (width, height)  # halves, as above
        assert np.abs(centre.evaluate(image.convert(preprocess.mode)) - expected).mean() > 3, "the mode is not seen"

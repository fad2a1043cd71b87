"""`finetune export --int8`: smaller, evaluated on the test images, and refused where it answers much worse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from PIL import Image

import finetune as ft
from finetune.data.dataset import ImageSet
from finetune.deliver.export.of_run import export_run
from finetune.deliver.export.publish import export_network
from finetune.deliver.export.runtime import onnx_answer, session
from finetune.deliver.export.samples import drawn
from finetune.deliver.export.to_int8 import Int8
from finetune.device import choose
from finetune.errors import ArtefactError, UsageError
from finetune.evaluate.evaluation import forward_of
from finetune.model.backbones import build

CLASSES = ["ant", "bee", "cat"]


def test_int8_files_answer_and_say_what_they_lose(run: Path, images: Path, guide: dict[str, str]) -> None:
    assert guide
    folder = run / "export" / "onnx"
    record = json.loads((folder / "export.json").read_text())
    assert {"network-int8.onnx", "classifier-int8.onnx"} < set(record["files"])
    assert {row["program"] for row in record["latency"]} == {"PyTorch", "onnx", "onnx int8"}
    told, predicted = record["int8"], ft.Run(run).predictions
    assert told["split"] == "test"
    assert told["n"] == len(predicted)
    assert told["accuracy_before"] == pytest.approx((predicted["predicted"] == predicted["class"]).mean())
    low, high = told["difference_ci95"]
    assert low <= told["difference"] <= high
    assert told["difference"] == pytest.approx(told["accuracy_after"] - told["accuracy_before"])

    answer = onnx_answer(session((folder / "classifier-int8.onnx").read_bytes()))
    answers = [answer(np.asarray(Image.open(images / path).convert("RGB"))) for path in predicted["path"]]
    labels = [CLASSES[probabilities.argmax()] for probabilities in answers]
    assert np.allclose(np.sum(answers, axis=1), 1, atol=1e-5)
    assert np.mean(labels == predicted["class"]) == pytest.approx(told["accuracy_after"], abs=1.5 / len(labels))
    expected = predicted[[f"p:{name}" for name in CLASSES]].astype(float).to_numpy()
    assert 0 < np.abs(np.stack(answers) - expected).max() < 0.2


def test_weights_are_int8_with_a_scale_for_each_channel(run: Path, guide: dict[str, str]) -> None:
    assert guide
    network = onnx.load(run / "export" / "onnx" / "network-int8.onnx")
    stored = {tensor.name: tensor for tensor in network.graph.initializer}
    made = {node.output[0]: node for node in network.graph.node}
    weights = [made[node.input[1]] for node in network.graph.node if node.op_type == "Conv"]
    assert len(weights) > 5
    for node in weights:
        assert node.op_type == "DequantizeLinear"
        weight, scale = (stored[name] for name in node.input[:2])
        assert weight.data_type == onnx.TensorProto.INT8
        assert list(scale.dims) == [weight.dims[0]]
    assert json.loads({entry.key: entry.value for entry in network.metadata_props}["classes"]) == CLASSES


def of_pixels(pixels: np.ndarray, labels: list[str]) -> ImageSet:
    table = pd.DataFrame({"path": [f"{number:05}" for number in range(len(pixels))], "class": labels})
    return ImageSet(Path("memory"), table, CLASSES, pixels)


def test_a_significant_loss_is_not_published_unless_it_is_accepted(tmp_path: Path) -> None:
    network = build("small/mlp", CLASSES, weights="none")
    with torch.no_grad():  # so that all classes are named
        network.module.get_submodule(network.head).weight.mul_(20)
        network.module.get_submodule(network.head).bias.zero_()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 28, 28), dtype=np.uint8)
    logits = forward_of(network, choose("cpu", "fp32"))(torch.from_numpy(pixels[..., None]))
    evaluated = of_pixels(pixels, [CLASSES[place] for place in logits.argmax(dim=1).tolist()])
    black = of_pixels(np.zeros((4, 28, 28), np.uint8), ["ant"] * 4)  # ranges that real pictures leave
    samples = drawn(network)

    with pytest.raises(ArtefactError, match=r"int8: accuracy 100.0% -> .* p = .*e-") as caught:
        export_network(network, ["onnx"], lambda name: tmp_path / "out", samples, int8=Int8(black, evaluated, "test"))
    assert "--accept-loss" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []

    accepted = Int8(black, evaluated, "test", accept_loss=True)
    (export,) = export_network(network, ["onnx"], lambda name: tmp_path / "out", samples, int8=accepted)
    assert export.record["int8"]["accepted"]
    assert export.record["int8"]["significant_loss_above_one_point"]
    assert (tmp_path / "out" / "network-int8.onnx").is_file()

    (export,) = export_network(
        network, ["onnx"], lambda name: tmp_path / "out", samples, int8=Int8(evaluated, evaluated, "test")
    )
    assert export.int8 is not None
    assert export.int8.after > 0.9, "with ranges of real pictures it is good"


def test_int8_is_refused_where_it_cannot_be(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--int8: is made of the onnx export, not of timm"):
        export_run(run, ["timm"], tmp_path / "out", int8=True)
    with pytest.raises(UsageError, match="--accept-loss: only an int8 network"):
        export_run(run, ["onnx"], tmp_path / "out", accept_loss=True)
    with pytest.raises(UsageError, match="--int8 needs the run's images"):
        export_run(run / "model", ["onnx"], tmp_path / "out", int8=True)
    assert not (tmp_path / "out").exists()

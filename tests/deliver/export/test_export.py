"""`finetune export`: what is written answers as `predict` does, or is not written."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from click.testing import CliRunner

import finetune as ft
from finetune.cli.export import export
from finetune.deliver.export.of_run import export_run
from finetune.deliver.export.parity import compare_answers
from finetune.deliver.export.publish import export_network
from finetune.deliver.export.runtime import onnx_answer, session
from finetune.deliver.export.samples import drawn
from finetune.deliver.export.to_onnx import classifier_onnx, network_onnx, plain_module, serialised
from finetune.errors import ArtefactError, UsageError
from finetune.model.backbones import build
from finetune.model.bundle import load_bundle
from tests import makers
from tests.conftest import Command

CLASSES = ["ant", "bee", "cat"]
RUNTIME_ONLY = """
import json, sys
import numpy as np, onnxruntime
from PIL import Image
model = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
classes = json.loads(model.get_modelmeta().custom_metadata_map["classes"])
answers = {}
for path in sys.argv[2:]:
    image = np.asarray(Image.open(path).convert("RGB"))
    answers[path] = dict(zip(classes, model.run(None, {"image": image})[0].tolist()))
assert not {name for name in sys.modules if name.split(".")[0] in ("torch", "torchvision", "timm", "finetune")}
print(json.dumps(answers))
"""


def metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_every_format_says_what_it_is_and_that_it_was_tried(exported: dict[str, Path]) -> None:
    for name, folder in exported.items():
        record = json.loads((folder / "export.json").read_text())
        assert record["format"] == name
        assert record["classes"] == CLASSES
        assert set(record["files"]) == {path.name for path in folder.iterdir()} - {"export.json"}
        for file, facts in record["files"].items():
            assert facts["sha256"] == hashlib.sha256((folder / file).read_bytes()).hexdigest()
        assert record["parity"]
        for parity in record["parity"].values():
            assert parity["n"] > 10
            assert parity["flips"] == []
            assert parity["largest_difference"] <= parity["limit"]
        assert {(row["batch"], row["threads"]) for row in record["latency"]} == {(1, 1), (1, 2), (32, 1), (32, 2)}
        assert {row["program"] for row in record["latency"]} == {"PyTorch", name}
        assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_the_onnx_files_carry_their_classes_and_nothing_of_this_machine(exported: dict[str, Path]) -> None:
    for name, given, answer in (("network.onnx", "pixels", "logits"), ("classifier.onnx", "image", "probabilities")):
        path = exported["onnx"] / name
        model = onnx.load(path)
        assert [value.name for value in model.graph.input] == [given]
        assert [value.name for value in model.graph.output] == [answer]
        assert json.loads(metadata(path)["classes"]) == CLASSES
        assert json.loads(metadata(path)["preprocess"])["size"] == [48, 48]
        assert not any(tensor.external_data for tensor in model.graph.initializer)
        assert str(Path(torch.__file__).parent).encode() not in path.read_bytes()


def test_onnx_runtime_alone_reproduces_the_run(run: Path, images: Path, exported: dict[str, Path]) -> None:
    with open(run / "report" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    paths = {str(images / row["path"]): row for row in rows}
    assert len(paths) > 10
    done = subprocess.run(
        [sys.executable, "-c", RUNTIME_ONLY, exported["onnx"] / "classifier.onnx", *paths],
        capture_output=True,
        check=True,
        text=True,
    )
    for path, answer in json.loads(done.stdout).items():
        assert max(answer, key=answer.__getitem__) == paths[path]["predicted"]
        for name, probability in answer.items():
            assert probability == pytest.approx(float(paths[path][f"p:{name}"]), abs=0.005)


def test_timm_and_torch_give_the_same_logits(run: Path, exported: dict[str, Path]) -> None:
    network = load_bundle(run)
    pixels = network.preprocess.normalise(torch.randint(0, 256, (3, 48, 48, 3), dtype=torch.uint8)).contiguous()
    program = torch.export.load(exported["torch"] / "network.pt2").module()
    model = timm.create_model(f"local-dir:{exported['timm']}", pretrained=True).eval()
    with torch.no_grad():
        expected = network.module(pixels)
        assert torch.allclose(program(pixels), expected, atol=1e-5)
        assert torch.allclose(model(pixels), expected, atol=1e-5)
    assert json.loads((exported["timm"] / "config.json").read_text())["label_names"] == CLASSES


def test_what_answers_differently_is_not_published(tmp_path: Path) -> None:
    network, other = (build("small/mlp", CLASSES, weights="none", seed=seed) for seed in (0, 1))
    with pytest.raises(ArtefactError, match="network.onnx: differs from predict by .* drawn 300x200|drawn") as caught:
        export_network(network, ["onnx"], lambda name: tmp_path / "out", drawn(other))
    assert "nothing was published" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_grey_network_takes_any_picture_and_answers_by_its_loss() -> None:
    network = build("small/mlp", CLASSES, weights="none")
    with torch.no_grad():
        network.module.get_submodule(network.head).weight.mul_(20)  # answers that are far from even
    exported, _ = network_onnx(network, plain_module(network))
    for loss in ("cross_entropy", "bce", "hinge"):
        trained = replace(network, loss=loss)
        whole = onnx_answer(session(serialised(classifier_onnx(trained, exported))))
        parity = compare_answers("classifier.onnx", drawn(trained), whole)
        assert parity.n == 8
        assert parity.failed is None
        assert parity.largest < 0.01


def test_a_folder_with_something_else_in_it_is_left_alone(run: Path, tmp_path: Path) -> None:
    makers.put(tmp_path / "out" / "notes.txt", b"mine")
    with pytest.raises(UsageError, match="something else"):
        export_run(run, ("timm",), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_timm_cannot_take_what_it_does_not_know(tmp_path: Path) -> None:
    network = build("small/mlp", CLASSES, weights="none")
    with pytest.raises(UsageError, match="not one of timm's") as caught:
        export_network(network, ["timm"], lambda name: tmp_path / name, drawn(network))
    assert "--to onnx" in caught.value.remedy


def test_a_bundle_without_images_is_tried_on_drawn_pictures(run: Path, tmp_path: Path) -> None:
    options = ["--to", "timm", "--out", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(export, [str(run / "model"), *options], catch_exceptions=False)
    assert done.exit_code == 0
    exports = json.loads(done.stdout)["exports"]
    assert [(entry["format"], entry["folder"]) for entry in exports] == [("timm", str(tmp_path / "out"))]
    assert "drawn" in exports[0]["parity"]["timm"]["pictures"]
    assert "no test images" in done.stderr
    assert np.isfinite(exports[0]["latency"][0]["ms"])


def test_the_command_refuses_what_cannot_be(run: Path, cli: Command, tmp_path: Path) -> None:
    assert cli("export", run, "--to", "onix").rc == 2
    assert cli("export", tmp_path / "nowhere").rc == 2
    bundle = cli("export", run / "model", "--int8")
    assert bundle.rc == 2
    assert "--int8 needs the run's images" in bundle.err
    assert "name a run folder" in bundle.err


def test_a_recipe_exports_at_the_end_and_a_script_whenever_it_likes(images: Path, tmp_path: Path) -> None:
    recipe = {
        "data": {"folder": str(images), "split": {"val": 0.25, "test": 0.25}, "augment": "none"},
        "model": {"backbone": "timm/test_resnet", "weights": "none", "preprocess": {"size": 32}},
        "train": {"epochs": 1, "batch_size": 8, "precision": "fp32"},
        "export": ["timm"],
    }
    done = ft.run(recipe, out=tmp_path / "run")
    record = json.loads((done / "export" / "timm" / "export.json").read_text())
    assert "test split" in record["parity"]["timm"]["pictures"]
    again = ft.load(done).export(tmp_path / "again", "timm")
    assert (again / "config.json").read_bytes() == (done / "export" / "timm" / "config.json").read_bytes()


def test_a_format_that_cannot_be_is_refused_before_anything_is_trained(images: Path, tmp_path: Path) -> None:
    recipe = {
        "data": {"folder": str(images), "augment": "none"},
        "model": {"backbone": "small/mlp"},
        "export": ["timm"],
    }
    with pytest.raises(UsageError, match="not one of timm's"):
        ft.run(recipe, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()

"""Weights as the world has them: under prefixes, in wrappers, beside harmless objects; and what is something else."""

from __future__ import annotations

import argparse
import collections
import datetime
import gzip
import json
import os
import pathlib
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from finetune.errors import ArtefactError, ResourceError, UsageError
from finetune.model import from_timm
from finetune.model.backbones import build, find
from finetune.model.weights import read_noted, read_weights, tensors_sha256
from finetune.recipe.load import from_mapping, resolve
from finetune.recipe.schema import Recipe
from tests import makers

NAME = "test_resnet"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """Weights of a small network of timm's, with its old head."""
    torch.manual_seed(0)
    return dict(timm.create_model(NAME, num_classes=7).state_dict())


def loaded(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The backbone of the network that is built from the file, and what was said."""
    network = build(f"timm/{NAME}", ["ant", "bee"], weights=str(path))
    own = network.module.state_dict()
    return {name: own[name] for name in own if not name.startswith("fc.")}, network.notes


def same(found: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> bool:
    assert len(found) > 20
    return all(torch.equal(tensor, state[name]) for name, tensor in found.items())


# --- prefixes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix",
    ["model.", "net.", "backbone.", "encoder.", "encoder_q.", "module.model.", "module.encoder_q.", "a.b.c."],
)
def test_a_prefix_before_the_names_is_taken_off_and_said(
    prefix: str, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_file({f"{prefix}{name}": value for name, value in state.items()}, tmp_path / "w.safetensors")
    found, notes = loaded(tmp_path / "w.safetensors")
    assert same(found, state)
    assert any(f"{prefix.removeprefix('module.')!r} taken off" in note for note in notes)


def test_of_two_copies_the_first_is_taken_and_the_rest_is_said(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    both = {f"encoder_q.{name}": value for name, value in state.items()}
    both |= {f"encoder_k.{name}": value + 1 for name, value in state.items() if value.is_floating_point()}
    torch.save({"state_dict": both, "arch": "x"}, tmp_path / "moco.pth")
    found, notes = loaded(tmp_path / "moco.pth")
    assert same(found, state)
    assert any("encoder_k." in note and "not used" in note for note in notes)


def test_names_of_another_network_are_still_another_architecture(tmp_path: Path) -> None:
    save_file({f"model.block{i}.weight": torch.ones(3) for i in range(9)}, tmp_path / "w.safetensors")
    with pytest.raises(ArtefactError, match="another architecture"):
        loaded(tmp_path / "w.safetensors")


# --- wrappers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        *(lambda s, key=key: {key: s, "epoch": 3} for key in ("teacher", "student", "model_ema", "net", "network")),
        *(lambda s, key=key: {key: s} for key in ("weights", "params", "state_dict_ema", "anything_else")),
        lambda s: [s],
        lambda s: {"model": [s]},
        lambda s: {name: value.numpy() for name, value in s.items()},
        lambda s: {"run": {"module": {"net": {"state_dict": s}}}},
        lambda s: {"checkpoint": {"model": {"state_dict": s}}, "optimizer": {"state": {0: {"m": torch.ones(2)}}}},
    ],
)
def test_wrappers_are_opened(wrap: Callable[[Any], Any], state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(wrap(state), tmp_path / "w.pth")
    assert tensors_sha256(read_weights(tmp_path / "w.pth")) == tensors_sha256(state)


@pytest.mark.parametrize("average", ["state_dict_ema", "model_ema"])
def test_the_average_is_taken_before_the_last_weights_as_timm_does(average: str, tmp_path: Path) -> None:
    plain = "state_dict" if average == "state_dict_ema" else "model"
    torch.save({plain: {"a": torch.zeros(2)}, average: {"a": torch.ones(2)}}, tmp_path / "w.pth")
    found, notes = read_noted(tmp_path / "w.pth")
    assert found["a"].tolist() == [1, 1]
    assert f"took {average!r}, not {plain}" in notes[0]
    assert torch.equal(timm.models.load_state_dict(str(tmp_path / "w.pth"))["a"], found["a"])


def test_dino_keeps_a_teacher_and_a_student_and_the_teacher_is_taken(tmp_path: Path) -> None:
    torch.save({"student": {"a": torch.zeros(2)}, "teacher": {"a": torch.ones(2)}}, tmp_path / "w.pth")
    found, notes = read_noted(tmp_path / "w.pth")
    assert found["a"].tolist() == [1, 1]
    assert "took 'teacher', not student" in notes[0]


# --- harmless objects beside the tensors, and code -------------------------------------------------------------------


@pytest.mark.parametrize(
    "beside",
    [
        argparse.Namespace(lr=0.1, path=pathlib.Path("/x"), when=datetime.datetime(2026, 1, 2)),
        {"path": pathlib.Path("runs/1"), "windows": pathlib.PureWindowsPath("C:/x")},
        {"score": np.float64(0.5), "count": np.int64(3), "flag": np.bool_(True), "half": np.float16(2)},
        {"curve": np.arange(6.0).reshape(2, 3), "names": np.array(["ant", "bee"])},
        collections.OrderedDict(a=1),
        collections.defaultdict(list, {"loss": [0.5, 0.4]}),
        {"when": datetime.timedelta(seconds=3), "day": datetime.date(2026, 1, 2), "torch": torch.__version__},
    ],
    ids=["namespace", "paths", "numbers", "arrays", "ordered", "defaultdict", "dates"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_harmless_objects_beside_the_weights_do_no_harm(beside: Any, zipped: bool, tmp_path: Path) -> None:
    content = {"state_dict": {"a": torch.ones(3)}, "args": beside, "epoch": 3}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert read_weights(tmp_path / "w.pth")["a"].tolist() == [1, 1, 1]


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("hide", [lambda t: argparse.Namespace(x=t), lambda t: [t], lambda t: {"a": np.array([t])}])
def test_code_among_harmless_objects_is_refused_and_never_runs(hide: Callable[[Any], Any], tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save({"state_dict": {"a": torch.ones(2)}, "args": hide(Touch(canary))}, tmp_path / "w.pth")
    with pytest.raises(ArtefactError, match="could run code"):
        read_weights(tmp_path / "w.pth")
    assert not canary.exists()


# --- files that are something else -----------------------------------------------------------------------------------


def script(path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):  # it is old, and so are many files
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), str(path))


def onnx_model(path: Path) -> None:
    import onnx

    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["x2"])], "g", [value], [value])
    path.write_bytes(onnx.helper.make_model(graph, producer_name="pytorch").SerializeToString())


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "x")


def numpy_archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.ones(2))


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "empty file"),
    "lfs": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"), "LFS"),
    "page": (lambda path: path.write_text("<!DOCTYPE html><html><body>Sign in</body></html>"), "HTML page"),
    "hdf5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64)), "HDF5"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"x" * 99)), "gzip"),
    "zip": (zipped, "zip archive of something else"),
    "npz": (numpy_archive, "NumPy archive"),
    "tensorflow": (lambda path: path.write_text('model_checkpoint_path: "model.ckpt-1"\n'), "TensorFlow checkpoint"),
    "index": (lambda path: path.write_text(json.dumps({"weight_map": {"a": "b"}})), "several files"),
    "text": (lambda path: path.write_text("these are my weights\n"), "text file"),
    "picture": (lambda path: path.write_bytes(makers.jpeg()), "picture"),
    "onnx": (onnx_model, "ONNX"),
    "torchscript": (script, "TorchScript"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_called_what_it_is(kind: str, suffix: str, tmp_path: Path) -> None:
    make, called = FOREIGN[kind]
    path = tmp_path / f"w{suffix}"
    make(path)
    with pytest.raises(ArtefactError, match=called) as caught:
        read_weights(path)
    assert caught.value.remedy


@pytest.mark.parametrize("suffix", [".pth", ".bin", ""])
def test_safetensors_are_known_by_content(suffix: str, tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / f"w{suffix}")
    assert read_weights(tmp_path / f"w{suffix}")["a"].tolist() == [1, 1]


def test_what_pytorch_wrote_is_known_by_content(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    assert read_weights(tmp_path / "w.safetensors")["a"].tolist() == [1, 1]


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_name_that_timm_has_changed_is_mapped_as_timm_does_and_said() -> None:
    from timm.models._registry import _deprecated_models

    assert len(_deprecated_models) > 100
    assert {find(f"timm/{old}").architecture for old in _deprecated_models} == {
        f"timm/{new}" for new in _deprecated_models.values()
    }
    origin = find("timm/vit_base_patch16_224_in21k")
    assert origin.architecture == "timm/vit_base_patch16_224.augreg_in21k"
    assert "renamed it to vit_base_patch16_224.augreg_in21k" in origin.notes[0]
    assert from_timm.default_preprocess("vit_base_patch16_224.augreg_in21k")["mean"] == (0.5, 0.5, 0.5)


def test_a_network_of_an_old_name_is_built_and_says_so(tmp_path: Path) -> None:
    network = build("timm/convnext_tiny_in22k", ["ant", "bee"], weights="none", options={"depths": [1, 1, 1, 1]})
    assert network.architecture == "timm/convnext_tiny.fb_in22k"
    assert "renamed" in network.notes[0]


@pytest.mark.parametrize("word", ["pretrained", "DEFAULT", "imagenet", True])
def test_words_for_the_published_weights_are_understood(word: object) -> None:
    assert recipe_of(word).model.weights == "default"


@pytest.mark.parametrize("word", ["random", "scratch", "None", False])
def test_words_for_no_weights_are_understood(word: object) -> None:
    assert recipe_of(word).model.weights == "none"


def recipe_of(weights: object) -> Recipe:
    values = {"data": {"folder": "."}, "model": {"backbone": "timm/resnet18", "weights": weights}}
    return resolve(from_mapping(values, "recipe"), Path.cwd())


def test_the_default_weights_of_torchvision_go_by_their_own_name_too() -> None:
    assert recipe_of("IMAGENET1K_V1").model.weights == "IMAGENET1K_V1"
    for weights in ("IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1"):  # there is no network here to fetch them
        with pytest.raises(ResourceError, match="resnet18-"):
            build("torchvision/resnet18", ["ant", "bee"], weights=weights)
    with pytest.raises(UsageError, match="IMAGENET1K_V2 is") as caught:
        build("torchvision/resnet50", ["ant", "bee"], weights="IMAGENET1K_V1")
    assert "download.pytorch.org" in caught.value.remedy
    with pytest.raises(UsageError, match="torchvision has no IMAGENET1K_V9"):
        build("torchvision/resnet50", ["ant", "bee"], weights="IMAGENET1K_V9")
    with pytest.raises(UsageError, match="names weights of torchvision"):
        build("timm/resnet18", ["ant", "bee"], weights="IMAGENET1K_V1")

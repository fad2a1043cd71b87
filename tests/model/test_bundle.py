"""The bundle: the same bytes for the same weights, whole or refused, and a backbone for the next job."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from finetune.errors import ArtefactError, UsageError
from finetune.files import sha256_file
from finetune.model.backbones import build
from finetune.model.bundle import load_bundle, save_bundle
from finetune.model.network import Network
from finetune.model.weights import tensors_sha256

NAMES = ["ferry", "ketch", "schooner"]
Head = str | dict[str, Any]


def network(head: Head = "linear", **settings: Any) -> Network:
    size = {"preprocess": {"size": 48, "mean": [0.5, 0.4, 0.3]}, "head": head, "seed": 3}
    return build("timm/test_resnet", NAMES, "none", **{**size, **settings})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_bundle(tmp_path / "b", network(), {"recipe": "test"})
    return tmp_path / "b"


@pytest.mark.parametrize("head", ["linear", {"hidden": [8], "activation": "relu", "dropout": 0.1}])
def test_a_network_comes_back_as_it_was(tmp_path: Path, head: Head) -> None:
    before = network(head, options={"drop_rate": 0.25}, in_chans=3)
    digest = save_bundle(tmp_path / "b", before, {"recipe": "test"})
    after = load_bundle(tmp_path / "b")
    assert tensors_sha256(after.module.state_dict()) == tensors_sha256(before.module.state_dict()) == digest
    for name in ("architecture", "options", "classes", "preprocess", "head", "groups", "head_spec"):
        assert getattr(after, name) == getattr(before, name), name
    assert not after.module.training
    picture = torch.rand(1, 3, 48, 48)
    assert torch.equal(after.module(picture), before.module(picture))


def test_grey_and_resized_networks_come_back_too(tmp_path: Path) -> None:
    save_bundle(tmp_path / "b", build("timm/test_vit", NAMES, "none", in_chans=1, preprocess={"size": 96}), {})
    after = load_bundle(tmp_path / "b")
    assert (after.in_chans, after.preprocess.size) == (1, (96, 96))


def test_the_bytes_depend_on_the_weights_alone(tmp_path: Path) -> None:
    first, second = network(), network()
    second.module.to(memory_format=torch.channels_last)
    second.classes = ["x", "y", "z"]
    save_bundle(tmp_path / "a", first, {"when": "now"})
    save_bundle(tmp_path / "b", second, {"when": "later"})
    assert sha256_file(tmp_path / "a" / "model.safetensors") == sha256_file(tmp_path / "b" / "model.safetensors")
    with safe_open(tmp_path / "a" / "model.safetensors", "pt") as file:
        assert not file.metadata()


def test_the_description_says_all_there_is_to_know(saved: Path) -> None:
    told = json.loads((saved / "model.json").read_text())
    assert told["format"] == 1
    assert told["classes"] == NAMES
    assert told["sha256"] == sha256_file(saved / "model.safetensors")
    assert told["weights_sha256"] == tensors_sha256(load_file(saved / "model.safetensors"))
    assert told["lineage"] == {"recipe": "test"}
    assert sorted(path.name for path in saved.iterdir()) == ["model.json", "model.safetensors"]


def test_half_precision_weights_are_kept_as_float32(tmp_path: Path) -> None:
    half = network()
    half.module.half()
    save_bundle(tmp_path / "b", half, {})
    kept = load_file(tmp_path / "b" / "model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32, torch.int64}


# --- as a backbone ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["linear", {"hidden": [8]}])
def test_what_was_learnt_on_some_classes_serves_others(tmp_path: Path, head: Head) -> None:
    first = network(head)
    save_bundle(tmp_path / "run" / "model", first, {})
    (tmp_path / "run" / "recipe.yaml").write_text("name: x\n")
    for backbone in (tmp_path / "run", tmp_path / "run" / "model"):
        second = build(str(backbone), ["a", "b", "c", "d"])
        assert second.classes == ["a", "b", "c", "d"]
        assert second.preprocess == first.preprocess
        assert second.module.fc.out_features == 4
        old, new = first.module.state_dict(), second.module.state_dict()
        assert all(torch.equal(old[name], new[name]) for name in new if not name.startswith("fc."))
        assert len(second.notes) == 1
    fresh = build(str(tmp_path / "run"), NAMES, "none")
    assert not torch.equal(fresh.module.state_dict()["layer1.0.conv1.weight"], old["layer1.0.conv1.weight"])


def test_a_run_without_a_model_and_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("name: x\n")
    with pytest.raises(ArtefactError, match="no model yet"):
        build(str(tmp_path / "run"), NAMES)
    for folder, words in ((tmp_path, "neither"), (tmp_path / "gone", "no such folder")):
        with pytest.raises(UsageError, match=words):
            load_bundle(folder)


# --- damaged and hostile ---------------------------------------------------------------------------------------------


def edit(saved: Path, **changes: Any) -> None:
    value = {**json.loads((saved / "model.json").read_text()), **changes}
    (saved / "model.json").write_text(json.dumps({key: item for key, item in value.items() if item is not ...}))


def flip(saved: Path) -> None:
    content = bytearray((saved / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (saved / "model.safetensors").write_bytes(content)


def swap(saved: Path) -> None:
    save_file({"fc.weight": torch.ones(3, 2)}, saved / "model.safetensors")
    edit(saved, sha256=sha256_file(saved / "model.safetensors"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip, "sha256"),
        (swap, "not the weights of"),
        (lambda s: (s / "model.safetensors").unlink(), "missing"),
        (lambda s: (s / "model.json").write_text("{"), "JSON"),
        (lambda s: (s / "model.json").write_text("[]"), "not the description"),
        (lambda s: edit(s, format=2), "format 2"),
        (lambda s: edit(s, format=...), "format None"),
        (lambda s: edit(s, architecture="os:system"), "os:system"),
        (lambda s: edit(s, architecture=["timm"]), "architecture"),
        (lambda s: edit(s, classes=["a", "a", "b"]), "classes"),
        (lambda s: edit(s, classes=[]), "classes"),
        (lambda s: edit(s, classes=["a", "b"]), "not the weights of"),
        (lambda s: edit(s, options={"checkpoint_path": "/etc/passwd"}), "checkpoint_path"),
        (lambda s: edit(s, preprocess={"size": "big"}), "size"),
        (lambda s: edit(s, head={"hidden": [4]}), "not the weights of"),
        (lambda s: edit(s, head={"hidden": "x"}), "head"),
        (lambda s: edit(s, head={"hidden": [-4]}), "head"),
        (lambda s: edit(s, in_chans=7), "in_chans"),
        (lambda s: edit(s, sha256=...), "sha256"),
    ],
)
def test_a_damaged_bundle_is_refused(saved: Path, damage: Callable[[Path], object], words: str) -> None:
    damage(saved)
    with pytest.raises(ArtefactError) as caught:
        load_bundle(saved)
    assert words in caught.value.problems[0]
    assert str(saved) in caught.value.problems[0]
    assert caught.value.remedy

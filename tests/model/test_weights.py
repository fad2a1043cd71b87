"""Weights files: what loads, what is refused, and that nothing in them is ever executed."""

from __future__ import annotations

import json
import os
import pickle
import resource
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from finetune.errors import ArtefactError
from finetune.model.fitting import load_backbone
from finetune.model.weights import read_pickle, read_weights, tensors_sha256


class Touch:
    """A pickle of this object creates a file when it is opened carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 5))


def safetensors(path: Path, header: dict[str, Any] | bytes, data: bytes, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}


# --- what loads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {
            "model_state_dict": state,
            "optimizer_state_dict": {"state": {}, "param_groups": []},
            "loss": 0.5,
        },
        lambda state: {"model": {"state_dict": state}},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"model": {f"module._orig_mod.{name}": value for name, value in state.items()}},
        lambda state: {name: nn.Parameter(value, requires_grad=False) for name, value in state.items()},
    ],
)
def test_weights_files_in_the_wild_are_understood(tmp_path: Path, wrap: Callable[[dict[str, Any]], Any]) -> None:
    state = dict(small().state_dict())
    torch.save(wrap(state), tmp_path / "w.pth")
    found = read_weights(tmp_path / "w.pth")
    assert tensors_sha256(found) == tensors_sha256(state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_other_precisions_become_float32(tmp_path: Path, dtype: torch.dtype, suffix: str) -> None:
    state = {"a": torch.tensor([1.5, -2.0], dtype=dtype), "n": torch.tensor(7)}
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    found = read_weights(path)
    assert found["a"].dtype == torch.float32
    assert found["a"].tolist() == [1.5, -2.0]
    assert found["n"].dtype == torch.int64


def test_a_file_of_the_old_format_without_a_zip_loads(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert read_weights(tmp_path / "w.pth")["a"].tolist() == [1, 1, 1]


# --- what is refused -------------------------------------------------------------------------------------------------


def hostile(folder: Path, kind: str) -> Path:
    canary = Touch(folder / "canary")
    path = folder / ("w.safetensors" if kind == "renamed" else "w.pth")
    if kind == "plain pickle":
        path.write_bytes(pickle.dumps({"state_dict": canary}))
    elif kind == "old torch":
        torch.save({"state_dict": canary}, path, _use_new_zipfile_serialization=False)
    else:
        torch.save({"a": torch.ones(2), "b": canary}, path)
    return path


@pytest.mark.parametrize("kind", ["zip", "old torch", "plain pickle", "renamed"])
@pytest.mark.parametrize("variable", ["", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
def test_a_pickle_with_code_is_refused_and_nothing_of_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, variable: str
) -> None:
    if variable:
        monkeypatch.setenv(variable, "1")
    path = hostile(tmp_path, kind)
    with pytest.raises(ArtefactError) as caught:
        read_weights(path)
    assert str(path) in caught.value.problems[0]
    assert caught.value.remedy
    assert not (tmp_path / "canary").exists()


def test_the_canary_of_these_tests_does_sing(tmp_path: Path) -> None:
    path = hostile(tmp_path, "zip")
    torch.load(path, weights_only=False)
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "make",
    [
        lambda p: safetensors(p, {}, b"", length=2**40),
        lambda p: safetensors(p, {}, b"", length=2**63),
        lambda p: safetensors(p, {"a": entry([2], 0, 8)}, b"\0" * 4),  # cut
        lambda p: safetensors(p, {"a": entry([2], 0, 8)}, b"\0" * 9),  # an extra byte
        lambda p: safetensors(p, {"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, b"\0" * 12),  # overlap
        lambda p: safetensors(p, {"a": entry([3], 0, 8)}, b"\0" * 8),  # wrong shape
        lambda p: safetensors(p, {"a": entry([2**62, 4], 0, 8)}, b"\0" * 8),
        lambda p: safetensors(p, {"a": entry([-1], 0, 8)}, b"\0" * 8),
        lambda p: safetensors(p, {"a": {"dtype": "F32"}}, b""),
        lambda p: safetensors(p, {"a": 1}, b""),
        lambda p: safetensors(p, {}, b""),  # no tensors
        lambda p: safetensors(p, {"__metadata__": {"_instantiator": "os.system"}}, b""),
        lambda p: safetensors(p, b'{"a": %s}' % (b"[" * 100_000 + b"]" * 100_000), b""),
        lambda p: safetensors(
            p, b'{"a":%s,"a":%s}' % ((json.dumps(entry([2], 0, 8)).encode(),) * 2), b"\0" * 8
        ),  # one name twice
        lambda p: p.write_bytes(b""),
        lambda p: p.write_bytes(b"\1\0"),
        lambda p: p.write_bytes(b"not weights at all, but text that is long enough"),
    ],
)
def test_malformed_safetensors_are_refused_quickly(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "w.safetensors"
    make(path)
    start = time.perf_counter()
    with pytest.raises(ArtefactError) as caught:
        read_weights(path)
    assert time.perf_counter() - start < 5
    assert str(path) in caught.value.problems[0]
    assert "\n" not in caught.value.problems[0]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_hundred_thousand_tensors_are_refused_quickly_and_in_little_memory(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save({f"tensor.{n}": torch.zeros(()) for n in range(20_001)}, path)
    else:
        safetensors(path, {f"tensor.{n}": entry([1], 4 * n, 4 * n + 4) for n in range(100_000)}, b"\0" * 400_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with pytest.raises(ArtefactError, match="more than any network has"):
        read_weights(path)
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


def test_broken_torch_files_are_refused(tmp_path: Path) -> None:
    whole, cut, empty, text = (tmp_path / name for name in ("whole.pth", "cut.pth", "empty.pth", "text.pth"))
    torch.save(small().state_dict(), whole)
    cut.write_bytes(whole.read_bytes()[:-200])
    empty.write_bytes(b"")
    text.write_text("hello")
    for path in (cut, empty, text, tmp_path / "missing.pth", tmp_path):
        with pytest.raises(ArtefactError, match=path.name):
            read_weights(path)


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    path, bomb = tmp_path / "w.pth", tmp_path / "bomb.pth"
    torch.save({"a": torch.zeros(1_000_000)}, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            new.writestr(item.filename, old.read(item))
    with pytest.raises(ArtefactError, match="unpacks to"):
        read_pickle(bomb)


def test_a_tensor_that_claims_more_values_than_its_file_has_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(1_000_000, 1_000_000)}, tmp_path / "w.pth")
    with pytest.raises(ArtefactError, match="claims more"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, value: float) -> None:
    state = small().state_dict()
    state["0.weight"][1, 2, 0, 0] = value
    save_file(dict(state), tmp_path / "w.safetensors")
    with pytest.raises(ArtefactError, match=r"0\.weight.*not finite"):
        read_weights(tmp_path / "w.safetensors")


# --- fitting ---------------------------------------------------------------------------------------------------------


def test_the_head_is_left_alone_and_everything_else_loads() -> None:
    torch.manual_seed(0)
    given, module = small().state_dict(), small()
    head = module.state_dict()["3.weight"].clone()
    given["3.weight"] = torch.zeros(1000, 4)
    notes = load_backbone(module, dict(given), "3", "w.pth").notes
    now = module.state_dict()
    assert torch.equal(now["3.weight"], head)
    assert torch.equal(now["0.weight"], given["0.weight"])
    assert len(notes) == 1
    assert "3.weight" in notes[0]
    assert "replaced by a new head" in notes[0]


def test_what_is_missing_and_what_is_unused_is_said() -> None:
    given, module = dict(small().state_dict()), small()
    del given["1.bias"], given["1.num_batches_tracked"], given["3.weight"], given["3.bias"]
    given["extra"] = torch.ones(1)
    notes = load_backbone(module, given, "3", "w.pth").notes
    assert notes == [
        "w.pth: 1.bias: not found in the file, so freshly initialised",
        "w.pth: extra: not used: the network has nothing of this name",
    ]


def test_less_than_half_of_the_backbone_is_an_error_that_names_a_few() -> None:
    given = {"0.weight": small().state_dict()["0.weight"], "else": torch.ones(3)}
    with pytest.raises(ArtefactError, match=r"only 1 of the backbone's 6 tensors.*0\.bias"):
        load_backbone(small(), given, "3", "w.pth")


def test_a_backbone_tensor_of_another_shape_is_an_error() -> None:
    given = dict(small().state_dict())
    given["0.bias"] = torch.ones(9)
    with pytest.raises(ArtefactError, match=r"0\.bias is \[9\], the network's is \[4\]"):
        load_backbone(small(), given, "3", "w.pth")


def test_a_first_convolution_is_adapted_to_grey_and_to_colour() -> None:
    colour, grey = small(), nn.Sequential(nn.Conv2d(1, 4, 3), *list(small())[1:])
    picture = torch.rand(2, 1, 8, 8)
    load_backbone(grey, dict(colour.state_dict()), "3", "w")
    torch.testing.assert_close(grey[0](picture), colour[0](picture.expand(2, 3, 8, 8)))
    load_backbone(colour, dict(grey.state_dict()), "3", "w")
    torch.testing.assert_close(grey[0](picture), colour[0](picture.expand(2, 3, 8, 8)))


# --- hashing ---------------------------------------------------------------------------------------------------------


def test_the_hash_sees_names_dtypes_shapes_and_bytes_and_nothing_else() -> None:
    state = {"a": torch.arange(24, dtype=torch.float32).reshape(1, 2, 3, 4), "b": torch.tensor(1)}
    same = {"b": torch.tensor(1), "a": state["a"].clone().contiguous(memory_format=torch.channels_last)}
    assert tensors_sha256(same) == tensors_sha256(state)
    others = [
        {**state, "a": state["a"].reshape(1, 2, 4, 3)},
        {**state, "a": state["a"].double()},
        {**state, "a": state["a"] + 1e-3},
        {"c": state["a"], "b": state["b"]},
        {**state, "c": torch.empty(0)},
    ]
    assert len({tensors_sha256(other) for other in [state, *others]}) == 6
    assert len(tensors_sha256({"h": torch.ones(2, dtype=torch.bfloat16)})) == 64

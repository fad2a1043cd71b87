"""Exporting a network: write each format beside its place, try it on real pictures, and only then give it its name."""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from finetune.append import replace_folder
from finetune.deliver.export.graph import OPSET, require_onnx
from finetune.deliver.export.latency import Runner, measure
from finetune.deliver.export.parity import Parity, compare_answers, compare_logits, require
from finetune.deliver.export.runtime import onnx_answer, onnx_runner, session, torch_answer, torch_runner
from finetune.deliver.export.samples import Samples
from finetune.deliver.export.to_int8 import Int8, Int8Loss, loss_of_int8, quantised, require_int8
from finetune.deliver.export.to_onnx import classifier_onnx, metadata, network_onnx, plain_module, serialised
from finetune.deliver.export.to_timm import load_timm, require_timm, write_timm
from finetune.deliver.export.to_torch import PROGRAM, load_program, torch_program
from finetune.device import own_randomness, versions
from finetune.errors import UsageError
from finetune.files import TEMPORARY, sha256_file, write_atomic, write_json
from finetune.model.bundle import plain_state
from finetune.model.network import Network
from finetune.model.weights import tensors_sha256

Format = Literal["onnx", "torch", "timm"]
FORMATS: tuple[Format, ...] = ("onnx", "torch", "timm")
RECORD = "export.json"
NETWORK, CLASSIFIER = "network.onnx", "classifier.onnx"
NETWORK_INT8, CLASSIFIER_INT8 = "network-int8.onnx", "classifier-int8.onnx"


@dataclass
class Export:
    """One format, written and tried.

    Attributes:
        format: onnx, torch or timm.
        folder: where it lies.
        parities: how its answers differ from the trained network's.
        record: what export.json says.
        int8: what its int8 network loses; None without one.
    """

    format: str
    folder: Path
    parities: list[Parity]
    record: dict[str, Any] = field(default_factory=dict)
    int8: Int8Loss | None = None


def require_formats(formats: Sequence[str], network: Network | None = None) -> None:
    """Refuse early what cannot be exported.

    Raises:
        UsageError: a format for which the network is not made. ResourceError: packages that are not installed.
    """
    if "onnx" in formats:
        require_onnx()
    if "timm" in formats and network is not None:
        require_timm(network)


def export_network(
    network: Network,
    formats: Sequence[str],
    place: Callable[[str], Path],
    samples: Samples,
    *,
    int8: Int8 | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Export]:
    """Export a network in every format, all or none.

    Args:
        network: whole, with its classes.
        formats: of `FORMATS`.
        place: from a format to its folder: absent, empty, or an export of before, which is replaced.
        samples: on which parity is checked.
        int8: adds an int8 network to onnx.
        say: told what is being done.

    Raises:
        UsageError: a format or folder that cannot be. ArtefactError: an export that answers differently, or in int8
            worse, which is then not published; or one that the libraries cannot make. ResourceError: packages, disk.
            DataError: images for int8 that are gone or changed.
    """
    formats = list(dict.fromkeys(formats))
    require_formats(formats, network)
    places = {name: place(name) for name in formats}
    for folder in places.values():
        _require_place(folder)
    module, staged = plain_module(network), dict[str, Path]()
    threads = torch.get_num_threads()
    try:
        exports, runners = [], {"PyTorch": torch_runner(module)}
        for name in formats:
            say(f"exporting {name}")
            staged[name] = _beside(places[name])
            export, runner = _WRITERS[name](network, module, staged[name], samples)
            exports.append(export)
            runners |= runner
            if int8 and name == "onnx":
                say("quantising to int8")
                runners |= _add_int8(network, export, int8, samples)
        require([parity for export in exports for parity in export.parities])
        say("measuring latency")
        rows = measure(runners, network.preprocess.example()[:1].contiguous().numpy())
        for export in exports:
            programs = ("PyTorch", export.format, f"{export.format} int8")
            _record(network, export, samples, [row for row in rows if row["program"] in programs])
        for export in exports:
            export.folder = places[export.format]
            replace_folder(staged.pop(export.format), export.folder)
    finally:
        torch.set_num_threads(threads)
        for folder in staged.values():
            _remove(folder)
    return exports


def _require_place(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: exists and is not a folder", "name another with --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RECORD).is_file():
        raise UsageError(f"{folder}: exists and holds something else than an export", "name another with --out")


def _beside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY}")


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


Written = tuple[Export, dict[str, Runner]]


def _write_onnx(network: Network, module: nn.Module, folder: Path, samples: Samples) -> Written:
    with own_randomness():
        exported, note = network_onnx(network, module)
    whole = serialised(classifier_onnx(network, exported))
    bare = serialised(exported, metadata(network))
    write_atomic(folder / NETWORK, bare)
    write_atomic(folder / CLASSIFIER, whole)
    parities = [
        compare_logits(NETWORK, samples, onnx_answer(session(bare))),
        compare_answers(CLASSIFIER, samples, onnx_answer(session(whole))),
    ]
    record = {"opset": OPSET, "notes": [note] if note else []}
    return Export("onnx", folder, parities, record), {"onnx": onnx_runner(bare)}


def _add_int8(network: Network, export: Export, int8: Int8, samples: Samples) -> dict[str, Runner]:
    """Write the int8 files beside the others, if they do not lose too much."""
    plain = export.folder / NETWORK
    int8_model = quantised(plain, int8.calibration, network.preprocess)
    whole = serialised(classifier_onnx(network, int8_model))
    bare = serialised(int8_model, metadata(network))
    export.int8 = loss_of_int8(plain.read_bytes(), bare, int8, network.preprocess)
    require_int8(export.int8, int8.accept_loss)
    write_atomic(export.folder / NETWORK_INT8, bare)
    write_atomic(export.folder / CLASSIFIER_INT8, whole)
    parity = compare_answers(CLASSIFIER_INT8, samples, onnx_answer(session(whole))).as_dict()
    del parity["limit"]  # it has none: see `require_int8`
    export.record["int8"] = {**export.int8.as_dict(), "accepted": int8.accept_loss, CLASSIFIER_INT8: parity}
    return {"onnx int8": onnx_runner(bare)}


def _write_torch(network: Network, module: nn.Module, folder: Path, samples: Samples) -> Written:
    with own_randomness():
        content = torch_program(network, module)
    write_atomic(folder / PROGRAM, content)
    program = load_program(content)
    parities = [compare_logits(PROGRAM, samples, torch_answer(program))]
    return Export("torch", folder, parities, {}), {"torch": torch_runner(program)}


def _write_timm(network: Network, module: nn.Module, folder: Path, samples: Samples) -> Written:
    write_timm(network, module, folder)
    built = load_timm(folder)
    parities = [compare_logits("timm", samples, torch_answer(built))]
    return Export("timm", folder, parities, {}), {"timm": torch_runner(built)}


_WRITERS: dict[str, Callable[[Network, nn.Module, Path, Samples], Written]] = {
    "onnx": _write_onnx,
    "torch": _write_torch,
    "timm": _write_timm,
}


def _record(network: Network, export: Export, samples: Samples, latency: list[dict[str, Any]]) -> None:
    """Write export.json, last of all."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(export.folder.iterdir())
    }
    export.record = {
        "format": export.format,
        "files": files,
        **export.record,
        "weights_sha256": tensors_sha256(plain_state(network.module.state_dict())),
        "architecture": network.architecture,
        "classes": network.classes,
        "preprocess": {**network.preprocess.as_dict(), "mode": network.preprocess.mode},
        "loss": network.loss,
        "temperature": network.temperature,
        "source": network.source,
        "parity": {parity.what: parity.as_dict() for parity in export.parities},
        "skipped": samples.skipped,
        "latency": latency,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
        "versions": {**versions(), **_runtime_versions(export.format)},
    }
    write_json(export.folder / RECORD, export.record)


def _runtime_versions(name: str) -> dict[str, str]:
    from importlib import metadata as packages

    return {part: packages.version(part) for part in ("onnx", "onnxruntime")} if name == "onnx" else {}

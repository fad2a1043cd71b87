"""Weights files: read without ever executing anything, checked, hashed."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from finetune.errors import ArtefactError
from finetune.files import visible
from finetune.model.foreign import looks_like_safetensors, what_else
from finetune.model.harmless import harmless
from finetune.model.unwrap import is_tensor, unwrap

State = dict[str, Tensor]

PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""

MAX_HEADER, MAX_TENSORS = 16 * 2**20, 20_000
"""Bytes of a safetensors header, and tensors in a file: ten times what the largest networks of timm have."""

_BROKEN = "give an intact file: download or copy it again"


# --- reading ---------------------------------------------------------------------------------------------------------


def read_weights(path: Path) -> State:
    """The tensors of a weights file, on the CPU, floating-point ones as float32; see `read_noted`."""
    return read_noted(path)[0]


def read_noted(path: Path) -> tuple[State, list[str]]:
    """The tensors of a weights file, on the CPU, floating-point ones as float32, and what was taken off around them.

    Plain state dicts, those of NumPy arrays, those wrapped in one of `unwrap.WRAPPERS`, and names with `PREFIXES` are
    all understood.

    Args:
        path: safetensors or what PyTorch writes, told apart by the content; the latter is read with
            ``weights_only=True``, which rebuilds tensors, plain containers and what `harmless` lists, and calls
            nothing from the file.

    Raises:
        ArtefactError: missing, broken, something else, holding code, no tensors, or a value that is not finite.
    """
    if not path.is_file():
        problem = "a folder, not a weights file" if path.is_dir() else "no such weights file"
        raise ArtefactError(f"{path}: {problem}", "correct the path, or put the file there")
    try:
        if found := what_else(path):
            raise ArtefactError(f"{path}: {found[0]}, not a weights file", found[1])
        content = _read_safetensors(path) if _is_safetensors(path) else read_pickle(path, harmless())
    except OSError as error:
        raise ArtefactError(f"{path}: not readable: {error.strerror or error}", _BROKEN) from error
    tensors, notes = unwrap(content)
    state = {_bare(name): torch.as_tensor(value) for name, value in tensors.items() if is_tensor(value)}
    _check_count(path, len(state))
    if not state:
        raise ArtefactError(f"{path}: holds no tensors", "give a file with a network's state dict in it")
    checked = {name: _checked(tensor, f"{path}: {visible(name)}", path) for name, tensor in state.items()}
    return checked, [f"{path}: {note}" for note in notes]


def _is_safetensors(path: Path) -> bool:
    """By content; a broken file by its name, unless it begins as PyTorch's do."""
    with open(path, "rb") as file:
        start = file.read(16)
    return looks_like_safetensors(start) or (path.suffix == ".safetensors" and start[:2] not in (b"PK", b"\x80\x02"))


def _read_safetensors(path: Path) -> State:
    _check_header(path)
    try:
        return dict(load_file(path))
    except (
        SafetensorError,
        ValueError,
        RuntimeError,
        TypeError,
        KeyError,
        AttributeError,
    ) as error:  # found by fuzzing
        raise ArtefactError(f"{path}: not a whole safetensors file: {_line(error)}", _BROKEN) from error


def _check_header(path: Path) -> None:
    """Refuse early what would cost memory, and duplicate names, of which the library keeps the last."""
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER, path.stat().st_size - 8):
            raise ArtefactError(f"{path}: not a safetensors file (its header would have {length:,} bytes)", _BROKEN)
        header = file.read(length)
    try:
        names = json.loads(header, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{path}: not a safetensors file: {_line(error)}", _BROKEN) from error
    _check_count(path, len(names) if isinstance(names, dict) else 0)


def _check_count(path: Path, count: int) -> None:
    if count > MAX_TENSORS:
        raise ArtefactError(f"{path}: {count:,} tensors, more than any network has", "give a network's weights")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tensors = dict(pairs)
    if len(tensors) < len(pairs):
        raise ValueError("a name occurs twice in the header")
    return tensors


def read_pickle(path: Path, also: Sequence[Any] = ()) -> Any:
    """Read what ``torch.save`` wrote: tensors and plain containers, on the CPU; nothing in the file is ever called.

    Args:
        path: of the file.
        also: classes besides whose objects may be in it, see `harmless`.

    Raises:
        ArtefactError: missing, broken, or holding anything else.
    """
    try:
        _check_zip(path)
        with torch.serialization.safe_globals(list(also)):
            return _safely(path)
    except UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))  # PyTorch's own text says how to run it all the same
        raise ArtefactError(
            f"{path}: refused, because it is broken or opening it could run code"
            + (f": it asks for {named[1]}" if named else ""),
            "nothing in it was executed. Give a file of plain tensors: torch.save(model.state_dict(), path), or "
            "safetensors",
        ) from error
    except OSError as error:
        raise ArtefactError(f"{path}: not readable: {error.strerror or error}", _BROKEN) from error
    except ArtefactError:
        raise
    except Exception as error:  # a broken pickle can fail in any way
        raise ArtefactError(f"{path}: not a whole PyTorch file: {_line(error)}", _BROKEN) from error


def _safely(path: Path) -> Any:
    """Read a file with PyTorch's safe reader."""
    # Opened here: given a path, torch would choose its reader by the suffix. Its doubts about a pickle are told by what
    # comes of it. Said explicitly, because TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD turns the default off, but not a caller's.
    with open(path, "rb") as file, warnings.catch_warnings(action="ignore"):
        return torch.load(file, map_location="cpu", weights_only=True)


def _check_zip(path: Path) -> None:
    """Refuse an archive that would unpack to more than it is."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:  # damaged, a bad name, an unknown version
        raise ArtefactError(f"{path}: not a whole PyTorch file: {_line(error)}", _BROKEN) from error
    if unpacked > path.stat().st_size:  # torch.save stores without compressing: more than the file is a bomb
        raise ArtefactError(f"{path}: unpacks to {unpacked:,} bytes, more than the file has", _BROKEN)


def _bare(name: Any) -> str:
    text = str(name)
    while text.startswith(PREFIXES):
        text = text.partition(".")[2]
    return text


def _checked(tensor: Tensor, name: str, path: Path) -> Tensor:
    """The tensor as float32 if it is floating-point; refused where it is not plain, finite and of the file's size."""
    tensor = tensor.detach()
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_complex() or tensor.is_quantized:
        raise ArtefactError(f"{name}: not a plain tensor", "save the weights as plain float tensors")
    # strides of 0 make a few bytes look like a huge tensor, which the next copy would allocate
    if tensor.numel() * tensor.element_size() > path.stat().st_size:
        raise ArtefactError(f"{name}: claims more values than the file has", _BROKEN)
    if not tensor.is_floating_point():
        return tensor
    tensor = tensor.to(torch.float32)
    if not bool(torch.isfinite(tensor).all()):
        raise ArtefactError(f"{name}: holds values that are not finite", "give weights from a run that did not diverge")
    return tensor


def _line(error: Exception) -> str:
    """The first sentence of a library's message."""
    text = (str(error) or type(error).__name__).strip().splitlines()[0]
    return visible(text)[:300]


# --- hashing ---------------------------------------------------------------------------------------------------------


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """The sha256 over sorted names, dtypes, shapes and bytes; neither device nor memory format has a say.

    Args:
        state: name → tensor, of any dtype and on any device.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        # names and shapes go in as JSON, so that no two states give the same bytes by running into each other
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode() + b"\n")
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

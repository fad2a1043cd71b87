"""Weights files: read without ever executing anything, checked, fitted to a network, hashed."""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from finetune.errors import ArtefactError, did_you_mean
from finetune.files import visible

State = dict[str, Tensor]

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep the weights among other things."""

PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""

MAX_HEADER, MAX_TENSORS = 16 * 2**20, 20_000
"""Bytes of a safetensors header, and tensors in a file: ten times what the largest networks of timm have."""

_COUNTER = "num_batches_tracked"  # absent from files older than PyTorch 0.4.1, and used by nothing but momentum=None
_BROKEN = "give an intact file: download or copy it again"


# --- reading ---------------------------------------------------------------------------------------------------------


def read_weights(path: Path) -> State:
    """The tensors of a weights file, on the CPU, floating-point ones as float32.

    Plain state dicts, those wrapped in one of `WRAPPERS`, and names with `PREFIXES` are all understood.

    Args:
        path: safetensors by its suffix, anything else as PyTorch writes it; the latter is read with
            ``weights_only=True``, which rebuilds tensors and plain containers and calls nothing from the file.

    Raises:
        ArtefactError: missing, broken, holding code, no tensors, or a value that is not finite.
    """
    if not path.is_file():
        raise ArtefactError(f"{path}: no such weights file", "correct the path, or put the file there")
    try:
        content = _read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    except OSError as error:
        raise ArtefactError(f"{path}: not readable: {error.strerror or error}", _BROKEN) from error
    state = {_bare(name): value for name, value in _unwrap(content).items() if isinstance(value, Tensor)}
    _check_count(path, len(state))
    if not state:
        raise ArtefactError(f"{path}: holds no tensors", "give a file with a network's state dict in it")
    return {name: _checked(tensor, f"{path}: {visible(name)}", path) for name, tensor in state.items()}


def _read_safetensors(path: Path) -> State:
    _check_header(path)
    try:
        return dict(load_file(path))
    except (SafetensorError, ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
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
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice in the header")
    return found


def read_pickle(path: Path) -> Any:
    """What ``torch.save`` wrote: tensors and plain containers, on the CPU; nothing in the file is ever called.

    Raises:
        ArtefactError: missing, broken, or holding anything else.
    """
    try:
        _check_zip(path)
        # Said explicitly, because TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD turns the default off, but not what a caller says.
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ArtefactError(
            f"{path}: refused, because it is broken or opening it could run code: {_line(error)}",
            "nothing in it was executed. Give a file of plain tensors: torch.save(model.state_dict(), path), or "
            "safetensors",
        ) from error
    except OSError as error:
        raise ArtefactError(f"{path}: not readable: {error.strerror or error}", _BROKEN) from error
    except ArtefactError:
        raise
    except Exception as error:  # a broken pickle can fail in any way
        raise ArtefactError(f"{path}: not a whole PyTorch file: {_line(error)}", _BROKEN) from error


def _check_zip(path: Path) -> None:
    """Refuse an archive that would unpack to more than it is."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ArtefactError(f"{path}: not a whole PyTorch file: {_line(error)}", _BROKEN) from error
    if unpacked > path.stat().st_size:
        raise ArtefactError(f"{path}: unpacks to {unpacked:,} bytes, more than the file has", _BROKEN)


def _unwrap(content: Any) -> Mapping[Any, Any]:
    """The mapping of tensors inside what a training script saved."""
    for _ in range(len(WRAPPERS)):
        inner = [content[key] for key in WRAPPERS if isinstance(content, Mapping) and key in content]
        if not inner or not isinstance(inner[0], Mapping):
            break
        content = inner[0]
    return content if isinstance(content, Mapping) else {}


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


# --- fitting to a network --------------------------------------------------------------------------------------------


def load_backbone(module: nn.Module, state: State, head: str | Sequence[str], source: str) -> list[str]:
    """Load all but the head into `module`.

    Where names do not fit as they are, timm's own conversion for the architecture is tried (original names of papers'
    repositories, position embeddings of another resolution). A first convolution with another number of channels is
    adapted as timm does: summed over the colours, or spread evenly over them.

    Args:
        module: the network.
        state: see `read_weights`.
        head: dotted name, or names, of the new classifier, whose tensors are left alone.
        source: the file's name for messages.

    Returns:
        What was not used and what was not found, one line each.

    Raises:
        ArtefactError: less than half of the backbone's tensors are there, or one has another shape.
    """
    heads = (head,) if isinstance(head, str) else tuple(head)
    wanted = {name: tensor for name, tensor in module.state_dict().items() if not within(name, heads)}
    given = _best_names(module, state, wanted)
    found = {name: _adapted(given[name], tensor) for name, tensor in wanted.items() if name in given}
    _require_fit(found, wanted, given, source)
    module.load_state_dict(found, strict=False)
    missing = [name for name in wanted if name not in found and not name.endswith(_COUNTER)]
    unused = [name for name in given if name not in found and not within(name, heads)]
    old_head = [name for name in given if within(name, heads)]
    notes = [
        (missing, "not found in the file, so freshly initialised"),
        (unused, "not used: the network has nothing of this name"),
        (old_head, "not used: the head is new"),
    ]
    return [f"{source}: {some(names)}: {what}" for names, what in notes if names]


def within(name: str, modules: Sequence[str]) -> bool:
    """Whether a tensor belongs to one of the modules."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def some(names: Sequence[str], most: int = 4) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(visible(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _fits(state: State, wanted: State) -> int:
    return sum(name in state and state[name].shape == tensor.shape for name, tensor in wanted.items())


def _best_names(module: nn.Module, state: State, wanted: State) -> State:
    """The state as it is, or as timm's own filter for this architecture renames and resizes it, if more of it fits."""
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    needed = sum(not name.endswith(_COUNTER) for name in wanted)
    if _fits(state, wanted) >= needed or convert is None or not type(module).__module__.startswith("timm."):
        return state
    converted = _try(lambda: convert(dict(state), module))
    return converted if _fits(converted, wanted) > _fits(state, wanted) else state


def _try(convert: Callable[[], Any]) -> State:
    try:
        result = convert()
    except Exception:  # written for other files than this one: any failure only means that it does not apply
        return {}
    return {name: tensor for name, tensor in dict(result).items() if isinstance(tensor, Tensor)}


def _adapted(tensor: Tensor, wanted: Tensor) -> Tensor:
    """The tensor in the shape that is wanted, where that is plain: one value, or a first convolution."""
    if tensor.numel() == wanted.numel() == 1:  # counters are written as [] or [1]
        return tensor.reshape(wanted.shape)
    return _adapt_channels(tensor, wanted)


def _adapt_channels(tensor: Tensor, wanted: Tensor) -> Tensor:
    """A first convolution's weight [out, in, h, w] for another number of input channels, 3 to 1 or 1 to 3."""
    rows, columns = list(tensor.shape), list(wanted.shape)
    if len(rows) != 4 or len(columns) != 4 or [rows[0], *rows[2:]] != [columns[0], *columns[2:]]:
        return tensor
    if (rows[1], columns[1]) == (3, 1):
        return tensor.sum(dim=1, keepdim=True)
    return tensor.expand_as(wanted) / 3 if (rows[1], columns[1]) == (1, 3) else tensor


def _require_fit(found: State, wanted: State, given: State, source: str) -> None:
    needed = [name for name in wanted if not name.endswith(_COUNTER)]
    fitting = [name for name in needed if name in found and found[name].shape == wanted[name].shape]
    remedy = "give this architecture's own weights, with the options they were made with (model.options, or a card)"
    if 2 * len(fitting) < len(needed):
        lacking = [name for name in needed if name not in fitting]
        near = did_you_mean(lacking[0], given)
        raise ArtefactError(
            f"{source}: only {len(fitting)} of the backbone's {len(needed)} tensors are in it, "
            f"so it belongs to another architecture; lacking: {some(lacking)}{near}",
            remedy,
        )
    unlike = [name for name in found if found[name].shape != wanted[name].shape]
    if unlike:
        first = unlike[0]
        shapes = f"{visible(first)} is {list(found[first].shape)}, the network's is {list(wanted[first].shape)}"
        raise ArtefactError(f"{source}: shapes do not fit: {shapes} ({len(unlike)} such tensors)", remedy)


# --- hashing ---------------------------------------------------------------------------------------------------------


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """The sha256 over sorted names, dtypes, shapes and bytes; neither device nor memory format has a say.

    Args:
        state: name → tensor, of any dtype and on any device.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode() + b"\n")
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

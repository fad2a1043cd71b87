"""Fits the tensors of a weights file to a network: names, heads, channels."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from finetune.errors import ArtefactError, did_you_mean
from finetune.files import visible
from finetune.model.weights import State

_COUNTER = "num_batches_tracked"  # absent from files older than PyTorch 0.4.1, and used by nothing but momentum=None


class Loaded(NamedTuple):
    """The outcome of loading weights: notes and missing tensors.

    Attributes:
        notes: what was not used and what was not found, one line each.
        missing: names of the tensors outside the head that were not found, and so hold their first random values.
    """

    notes: list[str]
    missing: list[str]


def load_backbone(module: nn.Module, state: State, head: str | Sequence[str], source: str) -> Loaded:
    """Load all but the head into `module`.

    What the names that fit have before them in common (``model.``, ``backbone.``, ``encoder_q.``, …) is taken off.
    Where names do not fit as they are, timm's own conversion for the architecture is tried (original names of papers'
    repositories, position embeddings of another resolution). A first convolution with another number of channels is
    adapted as timm does: summed over the colours, or spread evenly over them.

    Args:
        module: the network.
        state: see `read_weights`.
        head: dotted name, or names, of the new classifier, whose tensors are left alone.
        source: the file's name for messages.

    Raises:
        ArtefactError: less than half of the backbone's tensors are there, or one has another shape.
    """
    heads = (head,) if isinstance(head, str) else tuple(head)
    backbone = {name: tensor for name, tensor in module.state_dict().items() if not within(name, heads)}
    given, prefix = _best_names(module, state, backbone)
    fitted = {name: _adapted(given[name], tensor) for name, tensor in backbone.items() if name in given}
    _require_fit(fitted, backbone, given, source)
    module.load_state_dict(fitted, strict=False)
    # BatchNorm's counter of batches changes no answer, and old files lack it
    missing = [name for name in backbone if name not in fitted and not name.endswith(_COUNTER)]
    unused = [name for name in given if name not in fitted and not within(name, heads)]
    old_head = [name for name in given if within(name, heads)]
    notes = [
        (missing, "not found in the file, so freshly initialised"),
        (unused, "not used: the network has nothing of this name"),
        (old_head, "replaced by a new head, as expected"),
    ]
    taken_off = [f"{source}: {visible(prefix)!r} taken off the tensors' names"] if prefix else []
    return Loaded([*taken_off, *(f"{source}: {some(names)}: {what}" for names, what in notes if names)], missing)


def within(name: str, modules: Sequence[str]) -> bool:
    """Whether a tensor belongs to one of the modules."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def some(names: Sequence[str], most: int = 4) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(visible(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _fits(state: State, wanted: State) -> int:
    return sum(name in state and state[name].shape == tensor.shape for name, tensor in wanted.items())


def _best_names(module: nn.Module, state: State, wanted: State) -> tuple[State, str]:
    """The state under the names of which most fit, and the prefix that was taken off to get there.

    Tried are the names as they are, without a prefix, and as timm's own filter for this architecture renames and
    resizes what is under them.
    """
    needed = sum(not name.endswith(_COUNTER) for name in wanted)
    best, prefix_taken_off, most = state, "", -1
    for prefix, candidate in _candidates(module, state, wanted):
        if (count := _fits(candidate, wanted)) > most:
            best, prefix_taken_off, most = candidate, prefix, count
        if most >= needed:
            break  # the plainest way that fits is taken, and timm's conversion is not run in vain
    return best, prefix_taken_off


def _candidates(module: nn.Module, state: State, wanted: State) -> Iterator[tuple[str, State]]:
    """Ways to name the tensors, each with the prefix that was taken off, the plainest first."""
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    for prefix in ["", *_prefixes(state, wanted)]:
        bare = _without(state, prefix)
        yield prefix, bare
        if convert is not None and type(module).__module__.startswith("timm."):
            yield prefix, _try(partial(convert, dict(bare), module))


def _prefixes(state: State, wanted: State) -> list[str]:
    """Candidate prefixes of the names: before most of those that are needed, else before all that the file has."""
    counts: Counter[str] = Counter()
    for name in state:
        for dot in (at for at, letter in enumerate(name) if letter == "."):
            if name[dot + 1 :] in wanted:
                counts[name[: dot + 1]] += 1
    first, last = (sorted(state) or [""])[0], (sorted(state) or [""])[-1]  # what these two share, all names do
    shared = next((at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), 0)
    whole = first[: first.rfind(".", 0, shared) + 1]
    return list(dict.fromkeys([*(prefix for prefix, _ in counts.most_common(3)), *([whole] if whole else [])]))


def _without(state: State, prefix: str) -> State:
    """The tensors with `prefix` taken off where it is; what else has such a name already stays out."""
    if not prefix:
        return state
    inside = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    return {**{name: tensor for name, tensor in state.items() if not name.startswith(prefix)}, **inside}


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


def _require_fit(fitted: State, wanted: State, given: State, source: str) -> None:
    needed = [name for name in wanted if not name.endswith(_COUNTER)]
    fitting = [name for name in needed if name in fitted and fitted[name].shape == wanted[name].shape]
    remedy = "give this architecture's own weights, with the options they were made with (model.options, or a card)"
    if 2 * len(fitting) < len(needed):
        lacking = [name for name in needed if name not in fitting]
        near = did_you_mean(lacking[0], given)
        raise ArtefactError(
            f"{source}: only {len(fitting)} of the backbone's {len(needed)} tensors are in it, "
            f"so it seems to belong to another architecture; lacking: {some(lacking)}{near}",
            remedy,
        )
    unlike = [name for name in fitted if fitted[name].shape != wanted[name].shape]
    if unlike:
        first = unlike[0]
        shapes = f"{visible(first)} is {list(fitted[first].shape)}, the network's is {list(wanted[first].shape)}"
        raise ArtefactError(f"{source}: shapes do not fit: {shapes} ({len(unlike)} such tensors)", remedy)

"""Unwraps the tensors in what a training script saved, and notes what lay around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from finetune.files import visible

AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema")
"""Where scripts keep averaged weights; taken before the others, as timm does."""

WRAPPERS = (
    *AVERAGES,
    *("state_dict", "model_state_dict", "model", "teacher", "student", "net", "network", "weights", "params"),
    *("module", "backbone", "encoder"),
)
"""Keys under which the weights lie among other things, the first that is there."""

PLAIN = {"state_dict", "model_state_dict", "model"}
"""Keys so usual that taking what is under them is not worth a word, unless there was a choice."""

DEPTH = 4
"""Levels of wrapping that are opened."""


def unwrap(content: Any) -> tuple[Mapping[Any, Any], list[str]]:
    """The mapping that holds the tensors, and what was done to reach it, one line each."""
    notes: list[str] = []
    for _ in range(DEPTH):
        if isinstance(content, (list, tuple)) and len(content) == 1:
            content = content[0]
        if not isinstance(content, Mapping):
            return {}, notes
        inside = {key: value for key, value in content.items() if _holds_tensors(value) and not _of_training(key)}
        key = next((key for key in WRAPPERS if key in inside), None)
        if key is None and inside and not any(is_tensor(value) for value in content.values()):
            key = max(inside, key=lambda name: _count(inside[name]))
        if key is None:
            break
        others = [visible(str(name)) for name in inside if name != key]
        if others or key not in PLAIN:
            notes.append(f"took {visible(str(key))!r}" + (f", not {', '.join(others[:4])}" if others else ""))
        content = inside[key]
    return (content, notes) if isinstance(content, Mapping) else ({}, notes)


def is_tensor(value: Any) -> bool:
    """Whether it is a tensor, or an array of numbers, as which some scripts save them."""
    return isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "fiu")


def _holds_tensors(value: Any, depth: int = DEPTH) -> bool:
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Mapping) or depth == 0:
        return False
    return any(is_tensor(item) or _holds_tensors(item, depth - 1) for item in value.values())


def _of_training(key: Any) -> bool:
    """Whether the tensors under a key belong to a trainer (an optimizer, say), not to a network."""
    return str(key).lower().startswith(("optim", "sched", "scaler", "lr_"))


def _count(value: Any) -> int:
    return sum(is_tensor(item) for item in value.values()) if isinstance(value, Mapping) else 0

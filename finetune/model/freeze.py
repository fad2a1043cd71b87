"""Frozen means frozen: gradients off, eval mode kept, and a hash that proves it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import nn

from finetune.model.weights import tensors_sha256

BatchNorm = nn.modules.batchnorm._BatchNorm


def owner(name: str) -> str:
    """Dotted name of the module that a parameter or buffer belongs to."""
    return name.rpartition(".")[0]


def set_learning(module: nn.Module, learning: Collection[str]) -> None:
    """Let exactly the named parameters collect gradients; drop the gradients of all others."""
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in learning)
        if name not in learning:
            parameter.grad = None


def set_modes(module: nn.Module, learning: Collection[str], *, keep_statistics: bool) -> None:
    """Training mode where something learns, eval mode everywhere else. Use it wherever one would call `train()`.

    A module with parameters of its own is in training mode if one of them learns. One without any (dropout, drop path)
    goes with the next module beside it that has some, else with the one before: a dropout in front of a learning
    head is active, one behind a frozen patch embedding is not.

    Args:
        module: the network.
        learning: names of the parameters that learn.
        keep_statistics: BatchNorm stays in eval mode even where its weight and bias learn.
    """
    _set_modes(module, "", frozenset(learning), keep_statistics)


def _set_modes(module: nn.Module, prefix: str, learning: frozenset[str], keep: bool) -> bool | None:
    """Set the modes below `prefix`; True if something learns there, None if there are no parameters at all."""
    own = [f"{prefix}{name}" in learning for name, _ in module.named_parameters(recurse=False)]
    children = list(module.named_children())
    states = [_set_modes(child, f"{prefix}{name}.", learning, keep) for name, child in children]
    known = [state for state in states if state is not None]
    learns = any(own) or any(known)
    for position, (_, child) in enumerate(children):
        if states[position] is None:
            after = [state for state in states[position + 1 :] if state is not None]
            before = [state for state in states[:position] if state is not None]
            child.train(after[0] if after else before[-1] if before else any(own))
    module.training = learns and not (keep and isinstance(module, BatchNorm))
    return learns if own or known else None


def live_batchnorm(module: nn.Module) -> list[str]:
    """Names of the BatchNorm layers that are in training mode (their statistics would be updated)."""
    return [name for name, child in module.named_modules() if isinstance(child, BatchNorm) and child.training]


def freeze_hashes(state: Mapping[str, torch.Tensor], frozen: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Layer group → sha256 over its frozen tensors, see `FreezePlan.frozen_tensors`."""
    return {group: tensors_sha256({name: state[name] for name in names}) for group, names in frozen.items()}


def freeze_proof(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The two hashes of each frozen layer group side by side, as `run.json` holds them."""
    return {group: {"sha256_before": before[group], "sha256_after": after[group]} for group in before}

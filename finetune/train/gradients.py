"""How large the gradient of each layer group is: where it vanishes or explodes on its way back, it shows here."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import nn

COLUMN = "grad:"
"""What the columns of `history.csv` begin with; the layer group follows."""

Norms = dict[str, list[float]]
"""Layer group → [sum of the norms measured so far, how many they are]; plain numbers, for a checkpoint."""


class Gradients:
    """The gradients of a phase by layer group.

    Args:
        module: the network.
        groups: layer group → names of its tensors.
        learning: names of the parameters that learn.
    """

    def __init__(self, module: nn.Module, groups: Mapping[str, Sequence[str]], learning: Collection[str]) -> None:
        parameters = dict(module.named_parameters())
        members = {group: [parameters[name] for name in names if name in learning] for group, names in groups.items()}
        self.groups = {group: params for group, params in members.items() if params}

    @torch.no_grad()
    def measure(self, norms: Norms | None = None) -> float:
        """The L2 norm of the whole gradient as it is now.

        Args:
            norms: takes in the norm of each group; what overflowed (fp16) is left out.
        """
        pairs = [(group, p.grad) for group, parameters in self.groups.items() for p in parameters if p.grad is not None]
        if not pairs:
            return 0.0
        owners, gradients = zip(*pairs, strict=True)
        measured = torch._foreach_norm(gradients)
        # a device is waited for once; on the CPU, where there is nothing to wait for, stacking costs more than it saves
        norms_of_tensors = [norm.item() for norm in measured] if measured[0].is_cpu else torch.stack(measured).tolist()
        if norms is not None:
            _add_group_norms(norms, owners, norms_of_tensors)
        return math.hypot(*norms_of_tensors)


def _add_group_norms(norms: Norms, owners: Sequence[str], norms_of_tensors: Sequence[float]) -> None:
    parts: dict[str, list[float]] = {}
    for group, norm in zip(owners, norms_of_tensors, strict=True):
        parts.setdefault(group, []).append(norm)
    for group, norms_of_group in parts.items():
        group_norm = math.hypot(*norms_of_group)
        if math.isfinite(group_norm):
            sum_and_count = norms.setdefault(group, [0.0, 0])
            sum_and_count[0] += group_norm
            sum_and_count[1] += 1


def gradient_columns(groups: Collection[str], norms: Norms) -> dict[str, float | None]:
    """One column of `history.csv` for each layer group: the mean of what was measured, None where it was frozen."""
    sums = {group: norms.get(group, [0.0, 0]) for group in groups}
    return {f"{COLUMN}{group}": total / count if count else None for group, (total, count) in sums.items()}

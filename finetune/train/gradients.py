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
        self.groups = {group: found for group, found in members.items() if found}

    @torch.no_grad()
    def measure(self, norms: Norms) -> None:
        """Add the L2 norm of each group's gradient as it is now to `norms`; what overflowed (fp16) is left out."""
        owners, gradients = [], []
        for group, parameters in self.groups.items():
            for parameter in parameters:
                if parameter.grad is not None:
                    owners.append(group)
                    gradients.append(parameter.grad)
        if not gradients:
            return
        each = torch.stack(torch._foreach_norm(gradients)).tolist()  # all at once: one wait for the device
        squares: dict[str, float] = dict.fromkeys(owners, 0.0)
        for group, norm in zip(owners, each, strict=True):
            squares[group] += norm * norm
        for group, square in squares.items():
            if math.isfinite(square):
                total = norms.setdefault(group, [0.0, 0])
                total[0] += math.sqrt(square)
                total[1] += 1


def gradient_columns(groups: Collection[str], norms: Norms) -> dict[str, float | None]:
    """One column of `history.csv` for each layer group: the mean of what was measured, None where it was frozen."""
    found = {group: norms.get(group, [0.0, 0]) for group in groups}
    return {f"{COLUMN}{group}": total / count if count else None for group, (total, count) in found.items()}

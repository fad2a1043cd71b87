"""The step of an optimizer without what PyTorch's does besides."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from finetune.device import lies_by_pixel


def quick_step(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    """`optimizer.step`, the same to the bit.

    It leaves out an entry for PyTorch's profiler, which takes a small network a tenth of its step. Hooks of steps, of
    which there are none here, are not called.

    Args:
        optimizer: from now on for this only; its state stays as PyTorch knows it.
    """
    fused = all(group.get("fused") for group in optimizer.param_groups)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if fused and isinstance(optimizer, torch.optim.Adam) and all(parameter.is_cpu for parameter in parameters):
        return QuickAdam(optimizer)  # an AdamW is one, too
    inner = getattr(optimizer.step, "__wrapped__", None)
    return optimizer.step if inner is None else lambda: inner(optimizer)


class Gathered(NamedTuple):
    """What Adam works on in one parameter group; each list has one tensor for each parameter that has a gradient."""

    parameters: list[torch.Tensor]
    averages: list[torch.Tensor]
    square_averages: list[torch.Tensor]
    steps: list[torch.Tensor]


class QuickAdam:
    """A step of PyTorch's fused Adam or AdamW on a CPU.

    PyTorch collects parameters, averages and counts anew in every step and sorts them by device and type, which takes
    a small network a tenth of its step; here they are remembered while the same parameters have gradients. And where a
    kernel lies in memory by pixel (channels_last), PyTorch copies its gradient, 5 of 12 ms for a ResNet-18; here its
    tensors are handed over as views in which they are contiguous.

    Args:
        optimizer: plain: without AMSGrad, and going downhill.
    """

    def __init__(self, optimizer: torch.optim.Adam) -> None:
        self._optimizer: Any = optimizer
        self._gathered: dict[int, Gathered] = {}
        optimizer.register_load_state_dict_post_hook(lambda _: self._gathered.clear())

    @torch.no_grad()
    def __call__(self) -> None:
        """One step, on the gradients as they are now."""
        for number, group in enumerate(self._optimizer.param_groups):
            learning = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not learning:
                continue
            known = self._gathered.get(number)
            if known is None or not _same(known.parameters, learning):
                known = self._gathered[number] = self._gather(group)
            self._update(group, known, [parameter.grad for parameter in learning])

    def _gather(self, group: dict[str, Any]) -> Gathered:
        """PyTorch's own way, which also makes the state of a parameter that has none yet."""
        lists: tuple[list[torch.Tensor], ...] = tuple([] for _ in range(6))
        self._optimizer._init_group(group, *lists)
        parameters, _gradients, averages, square_averages, _largest, steps = lists
        return Gathered(parameters, averages, square_averages, steps)

    def _update(self, group: dict[str, Any], known: Gathered, gradients: list[torch.Tensor]) -> None:
        lists: tuple[list[torch.Tensor], ...] = known.parameters, gradients, known.averages, known.square_averages
        if any(parameter.dim() == 4 for parameter in known.parameters):
            lists = _along_memory(*lists)
        parameters, gradients, averages, square_averages = lists
        beta1, beta2 = group["betas"]
        torch._foreach_add_(known.steps, 1)
        update = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
        update(
            parameters,
            gradients,
            averages,
            square_averages,
            [],
            known.steps,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )


def _same(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))


def _along_memory(*lists: list[torch.Tensor]) -> tuple[list[torch.Tensor], ...]:
    """The same lists, with views along memory of what lies by pixel in each of them."""
    rows = [
        [value.permute(0, 2, 3, 1) for value in row] if all(map(lies_by_pixel, row)) else row
        for row in zip(*lists, strict=True)
    ]
    return tuple(list(column) for column in zip(*rows, strict=True))

"""ReLU of bf16 values by their bits, for training on a CPU: the same bits, in a fraction of the time.

Gains: 2.0 ms of 2.7 for 13 million values at hand, 5.8 of 7.2 elsewhere; a training step of a ResNet-18 with BatchNorm
that learns takes 371 and 358 ms instead of 400 and 366 (2 cores of an Intel Xeon with AMX, 2026-11-25).
Falls back to: PyTorch's ReLU, for all other types, on other devices and in inference.

PyTorch widens each number to 32 bits and back. But of the bits of a bf16, read as an int16, the first is the sign too:
what is to become 0 is -128 (minus infinity) or less, and only a NaN lies between that and 0, which stays one.
"""

from __future__ import annotations

import functools
from typing import Any, cast

import torch
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable

from finetune.speed.private import works

MINUS_INFINITY = -128
"""As bf16, read as an int16."""


def relu_bf16(module: nn.ReLU, values: torch.Tensor) -> torch.Tensor:
    """`module(values)`, to the same bits.

    Args:
        module: may work in place.
        values: of any type and shape; other than bf16 that learns, they take PyTorch's way.
    """
    if values.dtype != torch.bfloat16 or not values.is_cpu or not (values.requires_grad and torch.is_grad_enabled()):
        return nn.ReLU.forward(module, values)
    in_place = module.inplace and not values.is_leaf and not values._is_view()
    result: torch.Tensor = _ReluBf16.apply(values, in_place)
    return result


def gradient_of_relu(gradient: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """The gradient of what went into a ReLU, from that of its result and the result; bf16 by its bits."""
    masked: torch.Tensor
    if gradient.dtype == result.dtype == torch.bfloat16:
        masked = torch.ops.aten.threshold_backward(gradient.view(torch.int16), result.view(torch.int16), 0)
        return masked.view(torch.bfloat16)
    masked = torch.ops.aten.threshold_backward(gradient, result, 0)
    return masked


class _ReluBf16(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, values: torch.Tensor, in_place: bool) -> torch.Tensor:
        bits = values.view(torch.int16)
        if in_place:
            torch.threshold_(bits, MINUS_INFINITY, 0)
            ctx.mark_dirty(values)
            result = values
        else:
            result = torch.threshold(bits, MINUS_INFINITY, 0).view(torch.bfloat16)
        ctx.save_for_backward(result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return gradient_of_relu(gradients[0], *cast(tuple[torch.Tensor], ctx.saved_tensors)), None


@functools.cache
def has_relu_bits() -> bool:
    """Whether ReLU by bits is ReLU in this version of PyTorch; found out by trying, once."""
    return works("ReLU of bf16 by its bits", _self_test)


def _self_test() -> bool:
    results = []
    for relu in (relu_bf16, nn.ReLU.forward):
        values = torch.tensor([-1e30, -1.0, -0.0, 0.0, 2.0], dtype=torch.bfloat16, requires_grad=True)
        with torch.enable_grad():
            result = relu(nn.ReLU(inplace=True), values * 1)
            results += [result.detach(), *torch.autograd.grad(result.sum(), values)]
    return torch.equal(results[0], results[2]) and torch.equal(results[1], results[3])

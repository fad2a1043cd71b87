"""Linear layers by oneDNN, in fp32, on processors on which PyTorch's own way, Intel's MKL, is slow."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from finetune.device import Compute, computes_in, mkl_is_slow
from finetune.model.detour import Detour

LARGE = 2**15
"""Weights from which it gains. Measured on an AMD EPYC (Zen 5) with 64 to 256 rows: 1.6 to 2 times as fast, forwards
and backwards, from 784 to 128 units and from 256 to 128; slower from 128 to 64."""


def linear_detours(part: object, compute: Compute) -> list[Detour]:
    """The linear layers of a network that gain by it, each with its way.

    Args:
        part: what is run; what is no module has none.
        compute: there are none but in fp32 on a CPU that oneDNN is faster on.
    """
    fits = compute.device.type == "cpu" and compute.precision == "fp32" and mkl_is_slow() and has_linear()
    if not fits or not isinstance(part, nn.Module):
        return []
    found = [child for child in part.modules() if type(child) is nn.Linear and child.weight.numel() >= LARGE]
    return [Detour(child, functools.partial(_forward, child)) for child in found]


def linear(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`torch.nn.functional.linear`, the same to rounding.

    Args:
        values: float [..., K] on the CPU; what is not computed in fp32 takes PyTorch's own way.
        weight: float [M, K].
        bias: float [M], or none.
    """
    plain = {value.dtype for value in (values, weight, bias) if value is not None} == {torch.float32}
    if not plain or computes_in(values) != torch.float32 or not values.numel():
        return functional.linear(values, weight, bias)
    if torch.is_grad_enabled():
        found: torch.Tensor = _Linear.apply(values, weight, bias)
        return found
    return _product(values, weight, bias)


def _forward(layer: nn.Linear, values: torch.Tensor) -> torch.Tensor:
    return linear(values, layer.weight, layer.bias)


def _product(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """values [..., K] times weight [M, K], transposed, by oneDNN; without a gradient."""
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")
    return found


class _Linear(torch.autograd.Function):
    """What `linear` does, to learn through."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(values, weight)
        return _product(values, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,), (values, weight) = gradients, ctx.saved_tensors
        of_values, of_weight, of_bias = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])
        return (
            _product(gradient, weight.t()) if of_values else None,
            _product(rows.t(), values.reshape(-1, values.shape[-1]).t()) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


@functools.cache
def has_linear() -> bool:
    """Whether oneDNN's operator is there on this machine; found out by trying."""
    values, weight = torch.linspace(-1, 1, 6).reshape(2, 3), torch.linspace(-1, 1, 12).reshape(4, 3)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        try:
            found = _product(values, weight)
        except (RuntimeError, AttributeError):
            return False
        return torch.allclose(found, functional.linear(values, weight), atol=1e-5)

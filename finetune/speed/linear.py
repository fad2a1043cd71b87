"""Linear layers by oneDNN, in fp32, on processors on which PyTorch's own way, Intel's MKL, is slow.

Gains: on AMD's processors with AVX-512, inference with ViT-tiny is 1.7 times as fast and training 1.5 times, with
Mixer-S/16 2.0 and 1.8 times (2 cores of an AMD EPYC, Zen 5, 2026-11-26); elsewhere it loses and is off.
Falls back to: `torch.nn.functional.linear`.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from finetune.device import Compute
from finetune.speed.patched import Patch
from finetune.speed.private import works
from finetune.speed.processor import compute_dtype, has_onednn, mkl_is_slow

LARGE = 2**15
"""Weights of the smallest layer that gains. Measured on an AMD EPYC (Zen 5) with 64 to 256 rows: 1.6 to 2 times as
fast, forwards and backwards, from 784 to 128 units and from 256 to 128; slower from 128 to 64."""


def linear_patches(part: object, compute: Compute) -> list[Patch]:
    """The linear layers of a network that gain by it, each with its faster forward pass.

    Args:
        part: what is run; there are none in what is no module.
        compute: there are none but in fp32 on a CPU that oneDNN is faster on.
    """
    if not isinstance(part, nn.Module) or not has_fast_linear(compute):
        return []
    layers = [child for child in part.modules() if type(child) is nn.Linear and child.weight.numel() >= LARGE]
    return [Patch(child, functools.partial(_forward, child)) for child in layers]


def linear(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`torch.nn.functional.linear`, the same to rounding.

    Args:
        values: float [..., K] on the CPU; what is not computed in fp32 takes PyTorch's own way.
        weight: float [M, K].
        bias: float [M], or none.
    """
    plain = {value.dtype for value in (values, weight, bias) if value is not None} == {torch.float32}
    if not plain or compute_dtype(values) != torch.float32 or not values.numel():
        return functional.linear(values, weight, bias)
    if torch.is_grad_enabled():
        result: torch.Tensor = _Linear.apply(values, weight, bias)
        return result
    return _product(values, weight, bias)


def _forward(layer: nn.Linear, values: torch.Tensor) -> torch.Tensor:
    return linear(values, layer.weight, layer.bias)


def _product(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """values [..., K] times weight [M, K], transposed, by oneDNN; without a gradient."""
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")
    return result


class _Linear(torch.autograd.Function):
    """`linear` with a gradient."""

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


def has_fast_linear(compute: Compute) -> bool:
    """Whether linear layers gain here: in fp32, on a CPU that oneDNN is faster on."""
    fits = compute.device.type == "cpu" and compute.precision == "fp32"
    return fits and mkl_is_slow() and has_linear()


@functools.cache
def has_linear() -> bool:
    """Whether oneDNN's operator is there on this machine; found out by trying, once."""
    return has_onednn() and works("linear layers by oneDNN", _self_test)


def _self_test() -> bool:
    values, weight = torch.linspace(-1, 1, 6).reshape(2, 3), torch.linspace(-1, 1, 12).reshape(4, 3)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        return torch.allclose(_product(values, weight), functional.linear(values, weight), atol=1e-5)

"""Chooses the modules that get another `forward` in a training step on a CPU, and which one.

Gains: with convolution, addition and ReLU as one operation a step of MobileNetV2-0.35 takes 123 and 125 ms instead of
146 and 144, of ResNet-18 247 and 225 instead of 274 and 242 (bf16, 2 cores of an Intel Xeon with AMX, 2026-11-25); what
the single patches gain is in `convolution.py`, `relu_bf16.py` and `linear.py`.
Falls back to: the module's own `forward`; outside bf16 on a CPU there are only the linear layers' patches.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import nn

from finetune.device import Compute
from finetune.speed.convolution import ConvArgs, convolve, convolve_add_act, has_native_gradients, may_gain, output_size
from finetune.speed.fold import Folded, is_plain, padded
from finetune.speed.fused import ACTIVATIONS, Fused, can_add, has_post_ops
from finetune.speed.linear import linear_patches
from finetune.speed.patched import Patch
from finetune.speed.processor import compute_dtype
from finetune.speed.relu_bf16 import has_relu_bits, relu_bf16


def training_patches(part: nn.Module, compute: Compute) -> list[Patch]:
    """The patches for a forward pass in training.

    Args:
        part: what is run.
        compute: in bf16 convolutions and activations gain, in fp32 linear layers; on a CPU only.
    """
    fits = compute.device.type == "cpu" and compute.precision == "bf16"
    return [*(_bf16_patches(part) if fits else ()), *linear_patches(part, compute)]


def _bf16_patches(part: nn.Module) -> Iterator[Patch]:
    for child in part.modules():
        if isinstance(child, nn.Conv2d) and _may_gain(child) and has_native_gradients():
            yield Patch(child, functools.partial(_conv_forward, child))
        elif isinstance(child, Folded) and _may_gain(child.conv) and has_native_gradients():
            yield Patch(child, functools.partial(_folded_forward, child))
        elif isinstance(child, Fused) and _can_be_called(child.form) and has_native_gradients():
            yield Patch(child, functools.partial(_fused_forward, child))
        elif type(child) is nn.ReLU and has_relu_bits():
            yield Patch(child, functools.partial(relu_bf16, child))


def _can_be_called(conv: nn.Conv2d) -> bool:
    """Whether the convolution is described by its kernel and `ConvArgs`."""
    return is_plain(conv) and not isinstance(conv.padding, str)


def _may_gain(conv: nn.Conv2d) -> bool:
    if not _can_be_called(conv):
        return False
    weights = conv.in_channels // conv.groups * conv.out_channels * math.prod(conv.kernel_size)
    return may_gain(weights, conv.in_channels, conv.kernel_size, _args(conv))


def _conv_forward(conv: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    return convolve(padded(conv, images), conv.weight, conv.bias, _args(conv))


def _folded_forward(folded: Folded, images: torch.Tensor) -> torch.Tensor:
    return convolve(padded(folded.conv, images), *folded.kernel(), _args(folded.conv))


def _fused_forward(fused: Fused, images: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
    act, conv, dtype = _foldable(fused.act), fused.form, compute_dtype(images)
    if (other is None and act == "none") or not (has_post_ops(dtype) and torch.is_grad_enabled()):
        return Fused.forward(fused, images, other)
    values, args = padded(conv, images).to(dtype), _args(conv)
    kernel, bias = fused.weights()
    if other is not None and not can_add(other, values, (len(kernel), *output_size(values, kernel, args))):
        return Fused.forward(fused, images, other)
    convolved = convolve_add_act(values, kernel, bias, other, args, act)
    result: torch.Tensor = fused.act(convolved) if act == "none" else convolved
    return result


def _foldable(act: nn.Module) -> str:
    """oneDNN's name of an activation whose gradient follows from its result, so that its input need not be kept."""
    if isinstance(act, nn.ReLU6) and not act.inplace:  # PyTorch keeps what came in: the result may be changed in place
        return "none"
    return ACTIVATIONS[type(act)][0] if isinstance(act, (nn.ReLU, nn.ReLU6)) else "none"


def _args(conv: nn.Conv2d) -> ConvArgs:
    return ConvArgs(conv.stride, cast(tuple[int, ...], conv.padding), conv.dilation, conv.groups)

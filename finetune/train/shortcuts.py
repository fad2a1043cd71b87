"""Where a training step takes a shorter way than PyTorch's, on a CPU: which modules, and how they are led there."""

from __future__ import annotations

import functools
import math
from typing import cast

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import nn

from finetune.device import Compute, computes_in
from finetune.model.detour import Detour, Detours
from finetune.model.fold import Folded
from finetune.model.fused import ACTIVATIONS, Fused, adds, has_post_ops
from finetune.model.linear import linear_detours
from finetune.train.convolution import Shape, apply, convolve, may_be_short, sides
from finetune.train.rectify import rectify


def shortcuts(part: nn.Module, compute: Compute) -> Detours:
    """To be entered for a forward pass in training: inside, what may gain by it takes the shorter way.

    Args:
        part: what is run.
        compute: in bf16 convolutions and activations gain, in fp32 linear layers; on a CPU only.
    """
    fits = compute.device.type == "cpu" and compute.precision == "bf16"
    found = [child.runs if isinstance(child, Folded) else child for child in part.modules() if fits]
    convolutions = [child for child in found if isinstance(child, nn.Conv2d) and _may_gain(child)]
    fused = [child for child in found if isinstance(child, Fused) and _plain(child.form)]
    relus = [child for child in found if type(child) is nn.ReLU]
    return Detours(
        [
            *(Detour(conv, functools.partial(_forward, conv)) for conv in convolutions),
            *(Detour(one, functools.partial(_fused_forward, one)) for one in fused),
            *(Detour(relu, functools.partial(rectify, relu)) for relu in relus),
            *linear_detours(part, compute),
        ]
    )


def _plain(conv: nn.Conv2d) -> bool:
    """Whether it pads with zeros, as many as it says (or as TensorFlow would), and does nothing else."""
    return type(conv) in (nn.Conv2d, Conv2dSame) and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _may_gain(conv: nn.Conv2d) -> bool:
    if not _plain(conv):
        return False
    weights = conv.in_channels // conv.groups * conv.out_channels * math.prod(conv.kernel_size)
    return may_be_short(weights, conv.in_channels, conv.kernel_size, _walk(conv))


def _forward(conv: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    return convolve(_padded(conv, images), conv.weight, conv.bias, _walk(conv))


def _fused_forward(fused: Fused, images: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
    act, form, dtype = _foldable(fused.act), fused.form, computes_in(images)
    if (other is None and act == "none") or not (has_post_ops(dtype) and torch.is_grad_enabled()):
        return Fused.forward(fused, images, other)
    values, shape = _padded(form, images).to(dtype), _walk(form)
    kernel, bias = fused.weights()
    if other is not None and not adds(other, values, (len(kernel), *sides(values, kernel, shape))):
        return Fused.forward(fused, images, other)
    found = apply(values, kernel, bias, other, shape, act)
    result: torch.Tensor = fused.act(found) if act == "none" else found
    return result


def _foldable(act: nn.Module) -> str:
    """What oneDNN calls an activation whose gradient follows from its result, so that what came in need not be kept."""
    if isinstance(act, nn.ReLU6) and not act.inplace:  # PyTorch keeps what came in: the result may be changed in place
        return "none"
    return ACTIVATIONS[type(act)][0] if isinstance(act, (nn.ReLU, nn.ReLU6)) else "none"


def _padded(conv: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    if isinstance(conv, Conv2dSame):
        images = pad_same(images, list(conv.kernel_size), list(conv.stride), list(conv.dilation))
    return images


def _walk(conv: nn.Conv2d) -> Shape:
    return Shape(conv.stride, cast(tuple[int, ...], conv.padding), conv.dilation, conv.groups)

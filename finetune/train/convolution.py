"""Gradients of convolutions by the shorter way, for bf16 on a CPU.

oneDNN has a fast kernel for most of them, but not for all: of a depthwise convolution with a stride or a large kernel
it computes a gradient tens of times slower than the convolution itself, and of kernels as large as ResNet's last, on
maps of 7 by 7, at half the rate of a matrix product. Which way is taken hangs on shapes alone, so that a resumed run
takes the same.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple, cast

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from finetune.device import Compute
from finetune.model.fold import Folded

SMALL_MAP = 64
"""Positions up to which the gradient of a kernel is worth a matrix product. Measured on AMX with 128 to 512 channels,
4 to 64 images: 1.3 to 2.4 times as fast on maps of 7 by 7; on 14 by 14 between half and 1.1 times as fast."""

LARGE_KERNEL = 2**17
"""Weights from which that saves more than it takes to come here."""


class Shape(NamedTuple):
    """How a convolution walks: all but its kernel."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


# --- which take it ---------------------------------------------------------------------------------------------------


class ShortGradients:
    """To be entered for a forward pass in training: inside, the convolutions that may gain by it are `convolve`.

    Args:
        part: what is run. Inside, its weights, modes and hooks work as ever; outside, it is as it was.
        compute: nothing is done but in bf16 on a CPU.
    """

    def __init__(self, part: nn.Module, compute: Compute) -> None:
        fits = compute.device.type == "cpu" and compute.precision == "bf16"
        found = [child.runs if isinstance(child, Folded) else child for child in part.modules()]
        self.convolutions = [conv for conv in found if isinstance(conv, nn.Conv2d) and fits and _may_gain(conv)]
        self._forward = [functools.partial(_forward, conv) for conv in self.convolutions]

    def __enter__(self) -> None:
        for conv, forward in zip(self.convolutions, self._forward, strict=True):
            vars(conv)["forward"] = forward

    def __exit__(self, *_: object) -> None:
        for conv in self.convolutions:
            vars(conv).pop("forward", None)


def _may_gain(conv: nn.Conv2d) -> bool:
    if type(conv) not in (nn.Conv2d, Conv2dSame) or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return False
    weights = conv.in_channels // conv.groups * conv.out_channels * math.prod(conv.kernel_size)
    large = _large(weights, conv.dilation, conv.groups)
    return large or _slow_depthwise(conv.in_channels, conv.kernel_size, conv.stride, conv.groups)


def _forward(conv: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    if isinstance(conv, Conv2dSame):
        images = pad_same(images, list(conv.kernel_size), list(conv.stride), list(conv.dilation))
    shape = Shape(conv.stride, cast(tuple[int, ...], conv.padding), conv.dilation, conv.groups)
    return convolve(images, conv.weight, conv.bias, shape)


def _slow_depthwise(channels: int, size: tuple[int, ...], stride: tuple[int, ...], groups: int) -> bool:
    """Whether it has kernels for each channel, of a kind whose gradient bf16 is slow in."""
    return groups == channels > 1 and (max(size) > 3 or max(stride) > 1)


def _large(weights: int, dilation: tuple[int, ...], groups: int) -> bool:
    return groups == 1 and weights >= LARGE_KERNEL and max(dilation) == 1


def _positions(images: torch.Tensor, kernel: torch.Tensor, shape: Shape) -> int:
    """In how many places of an image the kernel lies; without dilation."""
    sides = zip(images.shape[2:], kernel.shape[2:], shape.stride, shape.padding, strict=True)
    return math.prod((side + 2 * padding - size) // stride + 1 for side, size, stride, padding in sides)


# --- the way ---------------------------------------------------------------------------------------------------------


def convolve(images: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None, shape: Shape) -> torch.Tensor:
    """`torch.conv2d`, with a shorter way back where there is one; the same to rounding.

    Args:
        images: float [N, C, H, W] on the CPU; autocast has its say as in `conv2d`.
        kernel: float [D, C / groups, height, width].
        bias: float [D], or none.
        shape: how the kernel walks over the images.
    """
    depthwise = _slow_depthwise(images.shape[1], tuple(kernel.shape[2:]), shape.stride, shape.groups)
    large = _large(kernel.numel(), shape.dilation, shape.groups)
    short = depthwise or (large and _positions(images, kernel, shape) <= SMALL_MAP)
    if not short or not torch.is_grad_enabled():
        return functional.conv2d(images, kernel, bias, *shape)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else images.dtype
    cast_bias = None if bias is None else bias.to(dtype)
    found: torch.Tensor = _Convolution.apply(images.to(dtype), kernel.to(dtype), cast_bias, shape)
    return found


class _Convolution(torch.autograd.Function):
    """A convolution of values that are all of one type."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, images: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None, shape: Shape
    ) -> torch.Tensor:
        ctx.save_for_backward(images, kernel)
        cast(Any, ctx).shape = shape
        return functional.conv2d(images, kernel, bias, *shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,), (images, kernel), shape = gradients, ctx.saved_tensors, cast(Shape, ctx.shape)
        of_images = of_kernel = of_bias = None
        depthwise = shape.groups > 1
        if ctx.needs_input_grad[0]:
            of_images = _native(gradient, images, kernel, shape, 0, exact=depthwise)
        if ctx.needs_input_grad[1]:
            if depthwise:
                of_kernel = _native(gradient, images, kernel, shape, 1, exact=max(kernel.shape[2:]) > 3)
            else:
                of_kernel = _product(gradient, images, kernel, shape)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_images, of_kernel, of_bias, None


def _native(
    gradient: torch.Tensor, images: torch.Tensor, kernel: torch.Tensor, shape: Shape, which: int, *, exact: bool
) -> torch.Tensor:
    """PyTorch's own gradient of the images (0) or the kernel (1); `exact`: worked out in fp32."""
    dtype = images.dtype
    if exact:
        # the gradient of the images does not depend on them, only on their shape
        images = torch.empty_like(images, dtype=torch.float32) if which == 0 else images.float()
        gradient, kernel = gradient.float(), kernel.float()
    mask = [which == 0, which == 1, False]
    stride, padding, dilation, groups = shape
    found: tuple[torch.Tensor, ...] = torch.ops.aten.convolution_backward(
        gradient, images, kernel, None, stride, padding, dilation, False, [0, 0], groups, mask
    )
    return found[which].to(dtype)


def _product(gradient: torch.Tensor, images: torch.Tensor, kernel: torch.Tensor, shape: Shape) -> torch.Tensor:
    """The gradient of a kernel, [D, C, height, width], as one matrix product over all positions of all images."""
    (above, left), (down, right), (height, width) = shape.padding, shape.stride, kernel.shape[2:]
    by_pixel = images.permute(0, 2, 3, 1)
    if above or left:
        by_pixel = functional.pad(by_pixel, (0, 0, left, left, above, above))
    by_pixel = by_pixel.contiguous()
    image, row, pixel, _ = by_pixel.stride()
    positions = (len(images), *gradient.shape[2:])
    # each position with the pixels that the kernel lies on there (im2col, Chellapilla et al. 2006)
    seen = by_pixel.as_strided(
        (*positions, height, width, images.shape[1]), (image, row * down, pixel * right, row, pixel, 1)
    ).reshape(math.prod(positions), -1)
    found = gradient.permute(0, 2, 3, 1).reshape(len(seen), -1).t() @ seen
    return found.view(len(kernel), height, width, -1).permute(0, 3, 1, 2)

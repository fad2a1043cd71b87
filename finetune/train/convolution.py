"""Convolutions and their gradients by the shorter way, for training in bf16 on a CPU.

oneDNN has a fast kernel for most gradients, but not for all: of a depthwise convolution with a stride or a large kernel
it computes one tens of times slower than the convolution itself, and of kernels as large as ResNet's last, on maps of
7 by 7, at half the rate of a matrix product. And an addition or a ReLU after a convolution costs it nothing, where
PyTorch's own goes over all values once more. Which way is taken hangs on shapes alone, so that a resumed run takes the
same.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from finetune.device import computes_in
from finetune.model.fused import joined, places
from finetune.train.rectify import gradient_of_relu

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


# --- which way back is short -----------------------------------------------------------------------------------------


def may_be_short(weights: int, channels: int, size: tuple[int, ...], shape: Shape) -> bool:
    """Whether there is a shorter way back than PyTorch's, at least on small maps.

    Args:
        weights: of the kernel.
        channels: of the images.
        size: height and width of the kernel.
        shape: how it walks.
    """
    return _large(weights, shape) or _slow_depthwise(channels, size, shape)


def _slow_depthwise(channels: int, size: tuple[int, ...], shape: Shape) -> bool:
    """Whether it has kernels for each channel, of a kind whose gradient bf16 is slow in."""
    return shape.groups == channels > 1 and (max(size) > 3 or max(shape.stride) > 1)


def _large(weights: int, shape: Shape) -> bool:
    return shape.groups == 1 and weights >= LARGE_KERNEL and max(shape.dilation) == 1


def sides(images: torch.Tensor, kernel: torch.Tensor, shape: Shape) -> tuple[int, ...]:
    """Height and width of what comes out."""
    sides = zip(images.shape[2:], kernel.shape[2:], *shape[:3], strict=True)
    return tuple(places(*side) for side in sides)


def way_back(images: torch.Tensor, kernel: torch.Tensor, shape: Shape) -> str:
    """How the gradients are worked out: `depthwise` in fp32, as a `product`, or as PyTorch does (`native`)."""
    if _slow_depthwise(images.shape[1], tuple(kernel.shape[2:]), shape):
        return "depthwise"
    large = _large(kernel.numel(), shape)
    return "product" if large and math.prod(sides(images, kernel, shape)) <= SMALL_MAP else "native"


# --- the way ---------------------------------------------------------------------------------------------------------


def convolve(images: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None, shape: Shape) -> torch.Tensor:
    """`torch.conv2d`, with a shorter way back where there is one; the same to rounding.

    Args:
        images: float [N, C, H, W] on the CPU; autocast has its say as in `conv2d`.
        kernel: float [D, C / groups, height, width].
        bias: float [D], or none.
        shape: how the kernel walks over the images.
    """
    if way_back(images, kernel, shape) == "native" or not torch.is_grad_enabled():
        return functional.conv2d(images, kernel, bias, *shape)
    return apply(images.to(computes_in(images)), kernel, bias, None, shape, "none")


def apply(
    images: torch.Tensor,
    kernel: torch.Tensor,
    bias: torch.Tensor | None,
    other: torch.Tensor | None,
    shape: Shape,
    act: str,
) -> torch.Tensor:
    """`act(conv2d(images) + other)` to learn through.

    Args:
        images: float [N, C, H, W], of the type that is computed in.
        kernel, bias, shape: as for `convolve`.
        other: what to add, of which `adds` is true, or none.
        act: none, relu or hardtanh, which is ReLU6.
    """
    dtype = images.dtype
    found: torch.Tensor = _Convolution.apply(
        images, kernel.to(dtype), None if bias is None else bias.to(dtype), other, shape, act
    )
    return found


class _Convolution(torch.autograd.Function):
    """`act(conv2d(images) + other)` of values that are all of one type; `act` is none, relu or hardtanh (ReLU6)."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        images: torch.Tensor,
        kernel: torch.Tensor,
        bias: torch.Tensor | None,
        other: torch.Tensor | None,
        shape: Shape,
        act: str,
    ) -> torch.Tensor:
        if other is None and act == "none":
            found = functional.conv2d(images, kernel, bias, *shape)
        else:
            found = joined(images, kernel, bias, other, shape, act, [0.0, 6.0] * (act == "hardtanh"))
        ctx.save_for_backward(images, kernel, *([] if act == "none" else [found]))
        cast(Any, ctx).shape, cast(Any, ctx).act = shape, act
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,), (images, kernel, *result), shape = gradients, ctx.saved_tensors, cast(Shape, ctx.shape)
        if ctx.act == "relu":
            gradient = gradient_of_relu(gradient, *result)
        elif ctx.act == "hardtanh":
            gradient = torch.ops.aten.hardtanh_backward(gradient, *result, 0, 6)
        of_images, of_kernel, of_bias, of_other = ctx.needs_input_grad[:4]
        way = way_back(images, kernel, shape)
        found: list[torch.Tensor | None] = [None, None, None]
        if way == "native":
            found = _native(gradient, images, kernel, shape, (of_images, of_kernel, of_bias))
        else:
            if of_images:
                found[0] = _native(gradient, images, kernel, shape, (True, False, False), exact=way == "depthwise")[0]
            if of_kernel and way == "product":
                found[1] = _product(gradient, images, kernel, shape)
            elif of_kernel:
                exact = max(kernel.shape[2:]) > 3
                found[1] = _native(gradient, images, kernel, shape, (False, True, False), exact=exact)[1]
            if of_bias:
                found[2] = gradient.sum((0, 2, 3))
        return *found, gradient if of_other else None, None, None


def _native(
    gradient: torch.Tensor,
    images: torch.Tensor,
    kernel: torch.Tensor,
    shape: Shape,
    mask: tuple[bool, bool, bool],
    *,
    exact: bool = False,
) -> list[torch.Tensor | None]:
    """PyTorch's own gradients of images, kernel and bias, those that the mask asks for; `exact`: worked out in fp32."""
    dtype = images.dtype
    if exact:
        # the gradient of the images does not depend on them, only on their shape
        images = images.float() if mask[1] else torch.empty_like(images, dtype=torch.float32)
        gradient, kernel = gradient.float(), kernel.float()
    stride, padding, dilation, groups = shape
    found = torch.ops.aten.convolution_backward(
        gradient, images, kernel, [len(kernel)], stride, padding, dilation, False, [0, 0], groups, mask
    )
    return [None if value is None else value.to(dtype) for value in found]


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

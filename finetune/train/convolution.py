"""Convolutions and their gradients by the shorter way, for training in bf16 on a CPU.

oneDNN has a fast kernel for most gradients, but not for all: of a depthwise convolution with a stride or a large kernel
it computes one tens of times slower than the convolution itself, and of kernels as large as ResNet's last, on maps of
7 by 7, at half the rate of a matrix product. And an addition or a ReLU after a convolution costs it nothing, where
PyTorch's own goes over all values once more. Which way is taken hangs on shapes alone, so that a resumed run takes the
same.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from finetune.device import Compute, computes_in
from finetune.model.fold import Folded
from finetune.model.fuse import ACTIVATIONS, Fused, adds, has_post_ops, joined

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
        found = [child.runs if isinstance(child, Folded) else child for child in part.modules() if fits]
        convolutions = [child for child in found if isinstance(child, nn.Conv2d) and _may_gain(child)]
        fused = [child for child in found if isinstance(child, Fused) and _plain(child.form)]
        self.modules: list[nn.Module] = [*convolutions, *fused]
        self._forward: list[Callable[..., torch.Tensor]] = [
            *(functools.partial(_forward, conv) for conv in convolutions),
            *(functools.partial(_fused_forward, one) for one in fused),
        ]

    def __enter__(self) -> None:
        for module, forward in zip(self.modules, self._forward, strict=True):
            vars(module)["forward"] = forward

    def __exit__(self, *_: object) -> None:
        for module in self.modules:
            vars(module).pop("forward", None)


def _plain(conv: nn.Conv2d) -> bool:
    """Whether it pads with zeros, as many as it says (or as TensorFlow would), and does nothing else."""
    return type(conv) in (nn.Conv2d, Conv2dSame) and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _may_gain(conv: nn.Conv2d) -> bool:
    if not _plain(conv):
        return False
    weights = conv.in_channels // conv.groups * conv.out_channels * math.prod(conv.kernel_size)
    large = _large(weights, conv.dilation, conv.groups)
    return large or _slow_depthwise(conv.in_channels, conv.kernel_size, conv.stride, conv.groups)


def _forward(conv: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    return convolve(_padded(conv, images), conv.weight, conv.bias, _walk(conv))


def _fused_forward(fused: Fused, images: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
    act, form, dtype = _foldable(fused.act), fused.form, computes_in(images)
    values = _padded(form, images).to(dtype)
    if (other is None and act == "none") or not (has_post_ops(dtype) and torch.is_grad_enabled()):
        return Fused.forward(fused, images, other)
    kernel, bias = fused.weights()
    shape = _walk(form)
    if other is not None and not adds(other, values, (len(kernel), *_sides(values, kernel, shape))):
        return Fused.forward(fused, images, other)
    found = _apply(values, kernel, bias, other, shape, act)
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


def _slow_depthwise(channels: int, size: tuple[int, ...], stride: tuple[int, ...], groups: int) -> bool:
    """Whether it has kernels for each channel, of a kind whose gradient bf16 is slow in."""
    return groups == channels > 1 and (max(size) > 3 or max(stride) > 1)


def _large(weights: int, dilation: tuple[int, ...], groups: int) -> bool:
    return groups == 1 and weights >= LARGE_KERNEL and max(dilation) == 1


def _sides(images: torch.Tensor, kernel: torch.Tensor, shape: Shape) -> tuple[int, ...]:
    """Height and width of what comes out."""
    sides = zip(images.shape[2:], kernel.shape[2:], *shape[:3], strict=True)
    return tuple((side + 2 * pad - gap * (size - 1) - 1) // stride + 1 for side, size, stride, pad, gap in sides)


def _way_back(images: torch.Tensor, kernel: torch.Tensor, shape: Shape) -> str:
    """How the gradients are worked out: `depthwise` in fp32, as a `product`, or as PyTorch does (`native`)."""
    if _slow_depthwise(images.shape[1], tuple(kernel.shape[2:]), shape.stride, shape.groups):
        return "depthwise"
    large = _large(kernel.numel(), shape.dilation, shape.groups)
    return "product" if large and math.prod(_sides(images, kernel, shape)) <= SMALL_MAP else "native"


# --- the way ---------------------------------------------------------------------------------------------------------


def convolve(images: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None, shape: Shape) -> torch.Tensor:
    """`torch.conv2d`, with a shorter way back where there is one; the same to rounding.

    Args:
        images: float [N, C, H, W] on the CPU; autocast has its say as in `conv2d`.
        kernel: float [D, C / groups, height, width].
        bias: float [D], or none.
        shape: how the kernel walks over the images.
    """
    if _way_back(images, kernel, shape) == "native" or not torch.is_grad_enabled():
        return functional.conv2d(images, kernel, bias, *shape)
    return _apply(images.to(computes_in(images)), kernel, bias, None, shape, "none")


def _apply(
    images: torch.Tensor,
    kernel: torch.Tensor,
    bias: torch.Tensor | None,
    other: torch.Tensor | None,
    shape: Shape,
    act: str,
) -> torch.Tensor:
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
            gradient = torch.ops.aten.threshold_backward(gradient, *result, 0)
        elif ctx.act == "hardtanh":
            gradient = torch.ops.aten.hardtanh_backward(gradient, *result, 0, 6)
        of_images, of_kernel, of_bias, of_other = ctx.needs_input_grad[:4]
        way = _way_back(images, kernel, shape)
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

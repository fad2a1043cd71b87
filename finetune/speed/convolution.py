"""Gradients of convolutions worked out another way where oneDNN is slow, for training in bf16 on a CPU.

Gains: forward and backward pass of EfficientNet-B0 359 ms instead of 561, MobileNetV3-small 143 instead of 244,
ResNet-18 247 instead of 262 (2 cores of an Intel Xeon with AMX, 2026-11-25); in fp32 nothing, so it is off there.
Falls back to: PyTorch's own gradient.

oneDNN has a fast kernel for most gradients, but not for all: of a depthwise convolution with a stride or a large kernel
it computes one tens of times slower than the convolution itself, and of kernels as large as ResNet's last, on maps of
7 by 7, at half the rate of a matrix product. And an addition or a ReLU after a convolution costs it nothing, where
PyTorch's own goes over all values once more.

Why it is the same gradient: that of a kernel is a sum over positions of (what the kernel lay on) x (gradient there),
which is one matrix product (`_product`); that of the images does not depend on the images; and that of a ReLU or ReLU6
follows from its result, so what went into it need not be kept.

What would break it: a choice that depends on anything but shapes (a resumed run must make the same one, or its last
bits differ), and an activation that changes the result in place after it was kept (`training_patches.py` leaves that
out).
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple, cast

import torch
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from finetune.speed.fused import onednn_convolve, output_length
from finetune.speed.private import works
from finetune.speed.processor import compute_dtype
from finetune.speed.relu_bf16 import gradient_of_relu

SMALL_MAP = 64
"""Positions up to which the gradient of a kernel is worth a matrix product. Measured on AMX with 128 to 512 channels,
4 to 64 images: 1.3 to 2.4 times as fast on maps of 7 by 7; on 14 by 14 between half and 1.1 times as fast."""

LARGE_KERNEL = 2**17
"""Smallest kernel, in weights, that repays the overhead."""


class ConvArgs(NamedTuple):
    """The arguments of a convolution besides its kernel."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


# --- where another gradient is faster --------------------------------------------------------------------------------


def may_gain(weights: int, channels: int, size: tuple[int, ...], args: ConvArgs) -> bool:
    """Whether there is a faster gradient than PyTorch's, at least on small maps.

    Args:
        weights: of the kernel.
        channels: of the images.
        size: height and width of the kernel.
        args: of the convolution.
    """
    return _large(weights, args) or _slow_depthwise(channels, size, args)


def _slow_depthwise(channels: int, size: tuple[int, ...], args: ConvArgs) -> bool:
    """Whether it has kernels for each channel, of a kind whose gradient bf16 is slow in."""
    return args.groups == channels > 1 and (max(size) > 3 or max(args.stride) > 1)


def _large(weights: int, args: ConvArgs) -> bool:
    return args.groups == 1 and weights >= LARGE_KERNEL and max(args.dilation) == 1


def output_size(images: torch.Tensor, kernel: torch.Tensor, args: ConvArgs) -> tuple[int, ...]:
    """Height and width of the result."""
    axes = zip(images.shape[2:], kernel.shape[2:], *args[:3], strict=True)
    return tuple(output_length(*axis) for axis in axes)


def backward_kind(images: torch.Tensor, kernel: torch.Tensor, args: ConvArgs) -> str:
    """How the gradients are worked out: `depthwise` in fp32, as a `product`, or as PyTorch does (`native`)."""
    if _slow_depthwise(images.shape[1], tuple(kernel.shape[2:]), args):
        return "depthwise"
    large = _large(kernel.numel(), args)
    return "product" if large and math.prod(output_size(images, kernel, args)) <= SMALL_MAP else "native"


# --- the convolution -------------------------------------------------------------------------------------------------


def convolve(images: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None, args: ConvArgs) -> torch.Tensor:
    """`torch.conv2d`, with a faster gradient where there is one; the same to rounding.

    Args:
        images: float [N, C, H, W] on the CPU; autocast applies as to `conv2d`.
        kernel: float [D, C / groups, height, width].
        bias: float [D], or none.
        args: of the convolution.
    """
    if backward_kind(images, kernel, args) == "native" or not torch.is_grad_enabled():
        return functional.conv2d(images, kernel, bias, *args)
    return convolve_add_act(images.to(compute_dtype(images)), kernel, bias, None, args, "none")


def convolve_add_act(
    images: torch.Tensor,
    kernel: torch.Tensor,
    bias: torch.Tensor | None,
    other: torch.Tensor | None,
    args: ConvArgs,
    act: str,
) -> torch.Tensor:
    """`act(conv2d(images) + other)` to learn through.

    Args:
        images: float [N, C, H, W], of the type that is computed in.
        kernel, bias, args: as for `convolve`.
        other: what to add, of which `can_add` is true, or none.
        act: none, relu or hardtanh, which is ReLU6.
    """
    dtype = images.dtype
    result: torch.Tensor = _Convolution.apply(
        images, kernel.to(dtype), None if bias is None else bias.to(dtype), other, args, act
    )
    return result


@functools.cache
def has_native_gradients() -> bool:
    """Whether PyTorch's own gradients can be called for by parts; found out by trying, once."""
    return works("gradients of convolutions", _self_test)


def _self_test() -> bool:
    images, weights = torch.linspace(-1, 1, 32).reshape(1, 2, 4, 4), torch.linspace(-1, 1, 36).reshape(2, 2, 3, 3)
    args = ConvArgs((1, 1), (1, 1), (1, 1), 1)
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        values = images.requires_grad_(), weights.requires_grad_(), torch.zeros(2, requires_grad=True)
        plain = functional.conv2d(*values, stride=1, padding=1)
        gradients = _native(torch.ones_like(plain), images.detach(), weights.detach(), args, (True, True, True))
        expected = torch.autograd.grad(plain.sum(), values, retain_graph=True)
        act_gradients = [
            torch.autograd.grad(act.sum(), plain)[0] for act in (functional.hardtanh(plain, 0, 6), plain.relu())
        ]
    ones, result = torch.ones_like(plain), plain.detach()
    acts = [torch.ops.aten.hardtanh_backward(ones, result, 0, 6), gradient_of_relu(ones, result)]
    pairs = [*zip(gradients, expected, strict=True), *zip(acts, act_gradients, strict=True)]
    return all(computed is not None and torch.allclose(computed, reference, atol=1e-4) for computed, reference in pairs)


class _Convolution(torch.autograd.Function):
    """`act(conv2d(images) + other)` of values that are all of one type; `act` is none, relu or hardtanh (ReLU6)."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        images: torch.Tensor,
        kernel: torch.Tensor,
        bias: torch.Tensor | None,
        other: torch.Tensor | None,
        args: ConvArgs,
        act: str,
    ) -> torch.Tensor:
        if other is None and act == "none":
            result = functional.conv2d(images, kernel, bias, *args)
        else:
            result = onednn_convolve(images, kernel, bias, other, args, act, [0.0, 6.0] * (act == "hardtanh"))
        ctx.save_for_backward(images, kernel, *([] if act == "none" else [result]))
        cast(Any, ctx).args, cast(Any, ctx).act = args, act
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,), (images, kernel, *result), args = gradients, ctx.saved_tensors, cast(ConvArgs, ctx.args)
        if ctx.act == "relu":
            gradient = gradient_of_relu(gradient, *result)
        elif ctx.act == "hardtanh":
            gradient = torch.ops.aten.hardtanh_backward(gradient, *result, 0, 6)
        of_images, of_kernel, of_bias, of_other = ctx.needs_input_grad[:4]
        kind = backward_kind(images, kernel, args)
        computed: list[torch.Tensor | None] = [None, None, None]
        if kind == "native":
            computed = _native(gradient, images, kernel, args, (of_images, of_kernel, of_bias))
        else:
            if of_images:
                computed[0] = _native(
                    gradient, images, kernel, args, (True, False, False), in_fp32=kind == "depthwise"
                )[0]
            if of_kernel and kind == "product":
                computed[1] = _product(gradient, images, kernel, args)
            elif of_kernel:
                in_fp32 = max(kernel.shape[2:]) > 3
                computed[1] = _native(gradient, images, kernel, args, (False, True, False), in_fp32=in_fp32)[1]
            if of_bias:
                computed[2] = gradient.sum((0, 2, 3))
        return *computed, gradient if of_other else None, None, None


def _native(
    gradient: torch.Tensor,
    images: torch.Tensor,
    kernel: torch.Tensor,
    args: ConvArgs,
    mask: tuple[bool, bool, bool],
    *,
    in_fp32: bool = False,
) -> list[torch.Tensor | None]:
    """PyTorch's own gradients of images, kernel and bias, those that the mask asks for; in fp32 if `in_fp32`."""
    dtype = images.dtype
    if in_fp32:
        # the gradient of the images does not depend on them, only on their args
        images = images.float() if mask[1] else torch.empty_like(images, dtype=torch.float32)
        gradient, kernel = gradient.float(), kernel.float()
    stride, padding, dilation, groups = args
    gradients = torch.ops.aten.convolution_backward(
        gradient, images, kernel, [len(kernel)], stride, padding, dilation, False, [0, 0], groups, mask
    )
    return [None if value is None else value.to(dtype) for value in gradients]


def _product(gradient: torch.Tensor, images: torch.Tensor, kernel: torch.Tensor, args: ConvArgs) -> torch.Tensor:
    """The gradient of a kernel, [D, C, height, width], as one matrix product over all positions of all images."""
    (above, left), (down, right), (height, width) = args.padding, args.stride, kernel.shape[2:]
    by_pixel = images.permute(0, 2, 3, 1)
    if above or left:
        by_pixel = functional.pad(by_pixel, (0, 0, left, left, above, above))
    by_pixel = by_pixel.contiguous()
    image, row, pixel, _ = by_pixel.stride()
    positions = (len(images), *gradient.shape[2:])
    # each position with the pixels that the kernel lies on there (im2col, Chellapilla et al. 2006)
    patches = by_pixel.as_strided(
        (*positions, height, width, images.shape[1]), (image, row * down, pixel * right, row, pixel, 1)
    ).reshape(math.prod(positions), -1)
    product = gradient.permute(0, 2, 3, 1).reshape(len(patches), -1).t() @ patches
    return product.view(len(kernel), height, width, -1).permute(0, 3, 1, 2)

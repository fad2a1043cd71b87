"""Gradients of convolutions by the shortest way, for bf16 on a CPU.

oneDNN has a fast kernel for most of them, but not for all: of a depthwise convolution with a stride or a large kernel
it computes a gradient tens of times slower than the convolution itself, and of kernels as large as ResNet's last, on
maps of 7 by 7, at half the rate of a matrix product. Which way is taken hangs on shapes alone, so that a resumed run
takes the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from finetune.device import Compute

SMALL_MAP = 64
"""Positions up to which the gradient of a kernel of more than one pixel is worth a matrix product. Measured on AMX with
128 to 512 channels and 4 to 64 images: 1.3 to 2.4 times as fast on maps of 7 by 7, 0.5 to 1.1 times on 14 by 14."""

LARGE_KERNEL = 2**15
"""Weights from which that saves more than it takes to decide."""


class Shape(NamedTuple):
    """How a convolution walks: all but its kernel."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def short_gradients(module: nn.Module, compute: Compute) -> Callable[[], contextlib.AbstractContextManager[object]]:
    """What to enter for a forward pass in training, so that the pass back is short.

    Args:
        module: the network; nothing is done where none of its convolutions gains by it.
        compute: nothing is done but in bf16 on a CPU.
    """
    convolutions = [child for child in module.modules() if isinstance(child, nn.Conv2d)]
    if compute.device.type != "cpu" or compute.precision != "bf16":
        return contextlib.nullcontext
    gains = any(_depthwise_detour(c.weight, c.stride, c.groups) or _as_matrix(c.weight, c.groups) for c in convolutions)
    return _ShortGradients if gains else contextlib.nullcontext


class _ShortGradients(TorchFunctionMode):
    """Inside, `conv2d` is `convolve`."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is functional.conv2d and not kwargs and len(args) == 7 and not isinstance(args[4], str):
            return convolve(*args)
        return func(*args, **(kwargs or {}))


def convolve(
    images: torch.Tensor,
    kernel: torch.Tensor,
    bias: torch.Tensor | None,
    stride: int | tuple[int, ...],
    padding: int | tuple[int, ...],
    dilation: int | tuple[int, ...],
    groups: int,
) -> torch.Tensor:
    """`torch.conv2d`, which it is to rounding, with a shorter way back where there is one.

    Args:
        images: float [N, C, H, W] on the CPU; autocast has its say as in `conv2d`.
        kernel: float [D, C / groups, height, width].
        bias: float [D], or none.
        stride: one number, or [vertical, horizontal]; so are padding and dilation.
        padding: pixels of zeros at each side.
        dilation: distance of the kernel's pixels.
        groups: into which the channels are divided.
    """
    shape = Shape(_pair(stride), _pair(padding), _pair(dilation), groups)
    large = _as_matrix(kernel, groups) and shape.dilation == (1, 1)
    if not torch.is_grad_enabled() or not (large or _depthwise_detour(kernel, shape.stride, groups)):
        return functional.conv2d(images, kernel, bias, *shape)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else images.dtype
    cast_bias = None if bias is None else bias.to(dtype)
    found: torch.Tensor = _Convolution.apply(images.to(dtype), kernel.to(dtype), cast_bias, shape)
    return found


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _depthwise_detour(kernel: torch.Tensor, stride: tuple[int | str, ...], groups: int) -> bool:
    """Whether it has a kernel for each channel, of a kind whose gradient bf16 is slow in."""
    return groups > 1 and kernel.shape[1] == 1 and (max(kernel.shape[2:]) > 3 or any(step != 1 for step in stride))


def _as_matrix(kernel: torch.Tensor, groups: int) -> bool:
    return groups == 1 and kernel.numel() >= LARGE_KERNEL


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
            if not depthwise and (kernel.shape[2:] == (1, 1) or gradient.shape[2:].numel() <= SMALL_MAP):
                of_kernel = _product(gradient, images, kernel, shape)
            else:
                of_kernel = _native(gradient, images, kernel, shape, 1, exact=depthwise and max(kernel.shape[2:]) > 3)
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
    ).reshape(positions[0] * positions[1] * positions[2], -1)
    found = gradient.permute(0, 2, 3, 1).reshape(len(seen), -1).t() @ seen
    return found.view(len(kernel), height, width, -1).permute(0, 3, 1, 2)

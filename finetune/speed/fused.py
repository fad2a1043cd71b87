"""A convolution and what directly follows it, as one operation: an addition, an activation.

Gains: inference with MobileNetV2-0.35 is 2.2 times as fast in bf16 and 1.5 times in fp32, with ResNet-18 1.5 and 1.0
times (2 cores of an Intel Xeon with AMX, 2026-11-25); features of four augmented views of 244 photographs and a head on
them took 3.6 s instead of 5.5. PyTorch's own elementwise kernels go over all values once more, and in bf16 take about
as long as the convolution; oneDNN does both while the values are at hand (its post-ops, which torch.compile uses too).
On a CPU only, and by itself without gradients (`training_patches.py` learns through it).
Falls back to: one operation after the other.

Why it is the same: a post-op is applied to each result of the convolution before that is written to memory, so the same
numbers are added and cut off; in bf16 they are rounded once at the end instead of after each operation, which is why
answers agree to rounding and not to the bit (and why `api.cache_key` names this measure).

What would break it:
- a kernel that is kept while the weights go on learning: it is kept only where they are fixed (`fixed`,
  `constant_weights`), and is made anew at each call elsewhere, because fused optimizers change weights in place;
- an addend in another memory format, which the operator would add in a pass of its own (`can_add` refuses it);
- TensorFlow's uneven padding, which the operator does not know (see `_side`).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn
from torch.nn import functional

from finetune.speed.fold import Folded
from finetune.speed.private import Unsupported, works
from finetune.speed.processor import compute_dtype, has_onednn, is_channels_last

ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.Identity: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
    nn.Hardswish: ("hardswish", []),
}
"""Activation → what oneDNN's operator calls it, and its numbers."""
AFTER_ADDITION = (nn.Identity, nn.ReLU)
"""Those that it does after an addition as well."""


class Fused(nn.Module):
    """A convolution, perhaps an addition, perhaps an activation.

    Where gradients are asked for, or oneDNN is not to be had, it does one after the other.

    Args:
        conv: the convolution, `Folded` or not.
        act: one of `ACTIVATIONS`; with an addition, of `AFTER_ADDITION`.
        fixed: its weights stay as they are at the first call; else each call takes those of that moment, except inside
            `constant_weights`.
    """

    def __init__(self, conv: nn.Conv2d | Folded, act: nn.Module, *, fixed: bool) -> None:
        super().__init__()
        self.conv, self.act, self.fixed = conv, act, fixed
        self.form = conv.conv if isinstance(conv, Folded) else conv
        self.kernels: dict[Any, tuple[torch.Tensor, torch.Tensor | None]] = {}

    def forward(self, images: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """`act(conv(images) + other)`, float [N, C, H, W]."""
        dtype = compute_dtype(images)
        if torch.is_grad_enabled() or not images.is_cpu or not has_post_ops(dtype):
            return self._one_by_one(images, other)
        form, name, numbers = self.form, *ACTIVATIONS[type(self.act)]
        sides = [self._side(axis, images.shape[2 + axis]) for axis in (0, 1)]
        if None in sides:
            return self._one_by_one(images, other)
        padding, extra, size = zip(*sides, strict=True)
        kernel, bias = self._kernel(dtype, extra)
        values, shape = images.to(dtype), (form.stride, padding, form.dilation, form.groups)
        if other is not None and not can_add(other, values, (form.out_channels, *size)):
            return self._one_by_one(images, other)
        return onednn_convolve(values, kernel, bias, other, shape, name, numbers)

    def _one_by_one(self, images: torch.Tensor, other: torch.Tensor | None) -> torch.Tensor:
        values = self.conv(images)
        result: torch.Tensor = self.act(values if other is None else values + other)
        return result

    def _side(self, axis: int, length: int) -> tuple[int, int, int] | None:
        """Along one axis: padding on either side, rows of zeros to put before the kernel, and what length comes out."""
        form = self.form
        size, stride, dilation = form.kernel_size[axis], form.stride[axis], form.dilation[axis]
        if not isinstance(form, Conv2dSame):
            padding = int(form.padding[axis])
            return padding, 0, output_length(length, size, stride, padding, dilation)
        # As in TensorFlow: as many come out as fit, and where the padding is odd, there is one more at the end. The
        # operator pads both ends alike; a kernel that begins with a row of zeros makes up for it.
        out = -(-length // stride)
        total = max((out - 1) * stride + dilation * (size - 1) + 1 - length, 0)
        uneven = total % 2
        return None if uneven and dilation > 1 else ((total + 1) // 2, uneven, out)

    def weights(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Kernel, [D, C / groups, height, width], and bias, [D] or none, with the way back to what learns."""
        return self.conv.kernel() if isinstance(self.conv, Folded) else (self.form.weight, self.form.bias)

    def _kernel(self, dtype: torch.dtype, extra: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Kernel and bias; of what learns made anew each time, as fused optimizers change weights without a trace."""
        if (cached := self.kernels.get((dtype, extra))) is not None:
            return cached
        kernel, bias = self.weights()
        kernel = functional.pad(kernel.detach().to(dtype), (extra[1], 0, extra[0], 0))
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        kernel_and_bias = kernel, None if bias is None else bias.detach().to(dtype)
        if self.fixed:
            self.kernels[dtype, extra] = kernel_and_bias
        return kernel_and_bias


def output_length(length: int, size: int, stride: int, padding: int, dilation: int) -> int:
    """In how many places along an axis of `length` a kernel of `size` lies; the padding is that of either end."""
    return (length + 2 * padding - dilation * (size - 1) - 1) // stride + 1


def can_add(other: torch.Tensor, images: torch.Tensor, size: tuple[int, ...]) -> bool:
    """Whether `onednn_convolve` can add `other` to a convolution of `images` that gives `size` [D, H, W] for each."""
    if other.dtype != images.dtype or tuple(other.shape) != (len(images), *size):
        return False
    return is_channels_last(images) and is_channels_last(other)  # else it adds by itself, and not in bf16


def onednn_convolve(
    images: torch.Tensor,
    kernel: torch.Tensor,
    bias: torch.Tensor | None,
    other: torch.Tensor | None,
    geometry_args: tuple[Sequence[int], Sequence[int], Sequence[int], int],
    act: str,
    numbers: list[float],
) -> torch.Tensor:
    """`act(conv2d(images) + other)` by oneDNN, all of one type; without a gradient.

    Args:
        images: float [N, C, H, W].
        kernel: float [D, C / groups, height, width].
        bias: float [D], or none.
        other: what to add, of which `can_add` is true, or none.
        shape: stride, padding, dilation and groups.
        act: as oneDNN's operator calls it, with its `numbers`; after an addition none or relu.
    """
    stride, padding, dilation, groups = geometry_args
    conv, geometry = torch.ops.mkldnn._convolution_pointwise, (list(padding), list(stride), list(dilation), groups)
    result: torch.Tensor
    if other is None:
        result = conv(images, kernel, bias, *geometry, act, numbers, "")
    else:
        act_or_none = None if act == "none" else act
        result = conv.binary(images, other, kernel, bias, *geometry, "add", 1.0, act_or_none, numbers, "")
    return result


@contextlib.contextmanager
def constant_weights(part: object) -> Iterator[None]:
    """Inside, the weights of `part` stay as they are, so that kernels are made of them once."""
    learning = (
        [child for child in part.modules() if isinstance(child, Fused) and not child.fixed]
        if isinstance(part, nn.Module)
        else []
    )
    for child in learning:
        child.fixed = True
    try:
        yield
    finally:
        for child in learning:
            child.fixed = False
            child.kernels.clear()


@functools.cache
def has_post_ops(dtype: torch.dtype) -> bool:
    """Whether oneDNN's operators are there for these numbers, on this machine; found out by trying, once."""
    if dtype not in (torch.float32, torch.bfloat16) or not has_onednn():
        return False
    return works("fused convolutions", lambda: _self_test(dtype))


def _self_test(dtype: torch.dtype) -> bool:
    images = torch.linspace(-1, 1, 64).reshape(1, 4, 4, 4).contiguous(memory_format=torch.channels_last)
    kernel = torch.linspace(-1, 1, 16).reshape(4, 4, 1, 1)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        plain = functional.conv2d(images, kernel)
        values, weights, geometry = images.to(dtype), kernel.to(dtype), ((1, 1), (0, 0), (1, 1), 1)
        try:
            with_act = onednn_convolve(values, weights, None, None, geometry, "hardtanh", [0.0, 6.0])
            with_addition = onednn_convolve(values, weights, None, values, geometry, "relu", [])
        except RuntimeError as error:
            if dtype == torch.bfloat16:  # oneDNN refuses it on processors without the instructions
                raise Unsupported from error
            raise
    expected = plain.clamp(0, 6), functional.relu(plain + images)
    return all(
        torch.allclose(result.float(), reference, atol=0.05)
        for result, reference in zip((with_act, with_addition), expected, strict=True)
    )

"""A training step by the shorter way is the step: gradients of convolutions, and the optimizer's update."""

from __future__ import annotations

import contextlib

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from finetune.device import Compute
from finetune.train.convolution import convolve, short_gradients
from finetune.train.optimizer import quick_step

BF16 = Compute(torch.device("cpu"), "bf16", channels_last=True)
FORMATS = [torch.channels_last, torch.contiguous_format]

SHORT = {
    "depthwise, strided": (24, 24, 3, 2, 1, 24, 15),
    "depthwise, 5 pixels": (24, 24, 5, 1, 2, 24, 14),
    "depthwise, 7 pixels, strided": (16, 16, 7, 2, 3, 16, 17),
    "two kernels a channel": (16, 32, 3, 2, 1, 16, 12),
    "large, on a small map": (64, 64, 3, 1, 1, 1, 7),
    "large, strided": (64, 96, 3, 2, 1, 1, 9),
    "large, without padding": (64, 64, 3, 1, 0, 1, 7),
    "large, on a large map": (64, 64, 3, 1, 1, 1, 12),
    "one pixel": (256, 128, 1, 1, 0, 1, 9),
    "one pixel, strided": (256, 128, 1, 2, 0, 1, 9),
}
"""Channels in and out, kernel, stride, padding, groups, and pixels a side."""
PLAIN = {
    "depthwise, 3 pixels": (24, 24, 3, 1, 1, 24, 14),
    "grouped": (32, 32, 3, 2, 1, 4, 14),
    "few weights": (16, 32, 3, 2, 1, 1, 14),
}


def made(case: tuple[int, ...], layout: torch.memory_format = torch.channels_last) -> tuple[torch.Tensor, ...]:
    """Images, kernel and bias that ask for a gradient."""
    inside, outside, size, _, _, groups, side = case
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, inside, side, side, generator=generator).contiguous(memory_format=layout)
    kernel = torch.randn(outside, inside // groups, size, size, generator=generator) / (size * (inside / groups) ** 0.5)
    kernel = kernel.contiguous(memory_format=layout)
    return tuple(value.requires_grad_() for value in (images, kernel, torch.randn(outside, generator=generator)))


def back(found: torch.Tensor, values: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    along = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad(found.float(), values, along)


def close(found: torch.Tensor, expected: torch.Tensor, share: float = 0.01) -> bool:
    found, expected = found.detach(), expected.detach()
    return float((found - expected).norm()) <= share * float(expected.norm())


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("case", SHORT)
def test_every_gradient_is_that_of_the_convolution(case: str, layout: torch.memory_format) -> None:
    values, (_, _, _, stride, padding, groups, _) = made(SHORT[case], layout), SHORT[case]
    expected = functional.conv2d(*values, stride, padding, 1, groups)
    with BF16.autocast():
        found = convolve(*values, stride, padding, 1, groups)
    assert found.dtype == torch.bfloat16
    assert type(found.grad_fn).__name__ == "_ConvolutionBackward"
    assert close(found, expected)
    for one, other in zip(back(found, values), back(expected, values), strict=True):
        assert one.dtype == torch.float32
        assert one.shape == other.shape
        assert close(one, other)


@pytest.mark.parametrize("case", PLAIN)
def test_where_nothing_is_won_it_is_the_plain_one(case: str) -> None:
    values, (_, _, _, stride, padding, groups, _) = made(PLAIN[case]), PLAIN[case]
    assert type(convolve(*values, stride, padding, 1, groups).grad_fn).__name__ == "ConvolutionBackward0"


@pytest.mark.parametrize("dilation", [2, (1, 2)])
def test_a_large_kernel_with_gaps_is_the_plain_one(dilation: int | tuple[int, int]) -> None:
    values = made(SHORT["large, on a small map"])
    found = convolve(*values, 1, 2, dilation, 1)
    assert type(found.grad_fn).__name__ == "ConvolutionBackward0"
    assert torch.equal(found, functional.conv2d(*values, 1, 2, dilation, 1))


def test_uneven_strides_padding_and_kernels() -> None:
    images, _, bias = made((32, 64, 3, 1, 0, 1, 8))
    kernel = torch.randn(64, 32, 5, 4, requires_grad=True)
    values, shape = (images, kernel, bias), ((2, 1), (2, 1), (1, 1), 1)
    found, expected = convolve(*values, *shape), functional.conv2d(*values, *shape)
    assert type(found.grad_fn).__name__ == "_ConvolutionBackward"
    assert all(close(a, b, 1e-5) for a, b in zip(back(found, values), back(expected, values), strict=True))


def test_what_does_not_learn_gets_no_gradient() -> None:
    images, kernel, bias = made(SHORT["large, on a small map"])
    found = convolve(images.detach(), kernel, bias.detach(), 1, 1, 1, 1)
    assert [source is not None for source, _ in found.grad_fn.next_functions] == [False, True, False]  # type: ignore[union-attr]
    with torch.no_grad():
        assert convolve(images, kernel, bias, 1, 1, 1, 1).grad_fn is None


def ways(result: torch.Tensor) -> set[str]:
    """The kinds of steps on the way back from a result."""
    found: set[str] = set()
    left, seen = [result.grad_fn], set()
    while left:
        if (step := left.pop()) is not None and step not in seen:
            seen.add(step)
            found.add(type(step).__name__)
            left += [source for source, _ in step.next_functions]
    return found


@pytest.mark.parametrize(
    ("name", "options"),
    [("mobilenetv2_035", {"pad_type": "same"}), ("resnet18", {}), ("efficientnet_b0", {}), ("convnext_atto", {})],
)
def test_a_network_learns_no_less_exactly(name: str, options: dict[str, str]) -> None:
    torch.manual_seed(0)
    module = BF16.place(timm.create_model(name, num_classes=5, drop_path_rate=0.0, **options)).eval()
    images = torch.randn(4, 3, 96, 96).to(memory_format=torch.channels_last)
    short = short_gradients(module, BF16)
    assert short is not contextlib.nullcontext

    with BF16.autocast(), short():
        assert "_ConvolutionBackward" in ways(module(images))

    def gradient(way: object, *, exact: bool = False) -> torch.Tensor:
        precision = contextlib.nullcontext() if exact else BF16.autocast()
        with precision, way() if callable(way) else contextlib.nullcontext():
            loss = functional.cross_entropy(module(images).float(), torch.arange(4))
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))])

    expected = gradient(None, exact=True)
    plain, found = gradient(None), gradient(short)
    assert float((found - expected).norm()) <= 1.2 * float((plain - expected).norm())


@pytest.mark.parametrize(
    "other", [Compute(torch.device("cpu"), "fp32", True), Compute(torch.device("meta"), "bf16", True)]
)
def test_elsewhere_nothing_is_done(other: Compute) -> None:
    assert short_gradients(timm.create_model("resnet18", num_classes=2), other) is contextlib.nullcontext


def test_a_network_that_gains_nothing_is_left_alone() -> None:
    assert short_gradients(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), BF16) is contextlib.nullcontext


@pytest.mark.parametrize("layout", FORMATS)
def test_a_quick_step_is_the_step_to_the_bit(layout: torch.memory_format) -> None:
    found = []
    for quick in (False, True):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1)).to(memory_format=layout)
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, fused=True)
        step = quick_step(optimizer) if quick else optimizer.step
        for _ in range(3):
            for parameter in module.parameters():
                parameter.grad = torch.randn_like(parameter)
            step()
        state = [value for parameter in module.parameters() for value in optimizer.state[parameter].values()]
        found.append([*module.parameters(), *state])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
        assert one.stride() == other.stride()

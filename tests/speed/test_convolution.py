"""A training step by the shorter way is the step: gradients of convolutions, and the optimizer's update."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
import timm
import torch
from timm.layers import StdConv2d
from torch import fx, nn
from torch.nn import functional

from finetune.device import Compute
from finetune.speed.convolution import ConvArgs, convolve
from finetune.speed.fold import Folded
from finetune.speed.fuse import fuse
from finetune.speed.optimized import for_training
from finetune.speed.patched import Patches
from finetune.speed.training_patches import training_patches

BF16 = Compute(torch.device("cpu"), "bf16", channels_last=True)
FORMATS = [torch.channels_last, torch.contiguous_format]

SHORT = {
    "depthwise, strided": (24, 24, 3, 2, 1, 24, 15),
    "depthwise, 5 pixels": (24, 24, 5, 1, 2, 24, 14),
    "depthwise, 7 pixels, strided": (16, 16, 7, 2, 3, 16, 17),
    "two kernels a channel": (16, 32, 3, 2, 1, 16, 12),
    "large, on a small map": (128, 128, 3, 1, 1, 1, 7),
    "large, strided": (128, 192, 3, 2, 1, 1, 9),
    "large, without padding": (128, 128, 3, 1, 0, 1, 7),
    "one pixel": (512, 256, 1, 1, 0, 1, 8),
    "one pixel, strided": (512, 256, 1, 2, 0, 1, 15),
}
"""Channels in and out, kernel, stride, padding, groups, and pixels a side."""
PLAIN = {
    "depthwise, 3 pixels": (24, 24, 3, 1, 1, 24, 14),
    "grouped": (32, 32, 3, 2, 1, 4, 14),
    "large, on a large map": (128, 128, 3, 1, 1, 1, 12),
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


def walk(case: tuple[int, ...]) -> ConvArgs:
    _, _, _, stride, padding, groups, _ = case
    return ConvArgs((stride, stride), (padding, padding), (1, 1), groups)


def back(found: torch.Tensor, values: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    along = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad(found.float(), values, along)


def close(found: torch.Tensor, expected: torch.Tensor, share: float = 0.01) -> bool:
    found, expected = found.detach(), expected.detach()
    return float((found - expected).norm()) <= share * float(expected.norm())


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


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("case", SHORT)
def test_every_gradient_is_that_of_the_convolution(case: str, layout: torch.memory_format) -> None:
    values, shape = made(SHORT[case], layout), walk(SHORT[case])
    expected = functional.conv2d(*values, *shape)
    with BF16.autocast():
        found = convolve(*values, shape)
    assert found.dtype == torch.bfloat16
    assert "_ConvolutionBackward" in ways(found)
    assert close(found, expected)
    for one, other in zip(back(found, values), back(expected, values), strict=True):
        assert one.dtype == torch.float32
        assert one.shape == other.shape
        assert close(one, other)


@pytest.mark.parametrize("case", PLAIN)
def test_where_nothing_is_won_it_is_the_plain_one(case: str) -> None:
    assert "_ConvolutionBackward" not in ways(convolve(*made(PLAIN[case]), walk(PLAIN[case])))


def test_a_large_kernel_with_gaps_is_the_plain_one() -> None:
    values, shape = made(SHORT["large, on a small map"]), ConvArgs((1, 1), (2, 2), (1, 2), 1)
    found = convolve(*values, shape)
    assert "_ConvolutionBackward" not in ways(found)
    assert torch.equal(found, functional.conv2d(*values, *shape))


def test_uneven_strides_padding_and_kernels() -> None:
    images, _, bias = made((64, 128, 3, 1, 0, 1, 8))
    kernel = torch.randn(128, 64, 5, 4, requires_grad=True)
    values, shape = (images, kernel, bias), ConvArgs((2, 1), (2, 1), (1, 1), 1)
    found, expected = convolve(*values, shape), functional.conv2d(*values, *shape)
    assert "_ConvolutionBackward" in ways(found)
    assert all(close(a, b, 1e-5) for a, b in zip(back(found, values), back(expected, values), strict=True))


def test_what_does_not_learn_gets_no_gradient() -> None:
    case = SHORT["large, on a small map"]
    images, kernel, bias = made(case)
    found = convolve(images.detach(), kernel, bias.detach(), walk(case))
    assert found.grad_fn is not None
    assert [source is not None for source, _ in found.grad_fn.next_functions] == [False, True, False]
    with torch.no_grad():
        assert convolve(images, kernel, bias, walk(case)).grad_fn is None


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(
    ("name", "options"),
    [("mobilenetv2_035", {"pad_type": "same"}), ("resnet18", {}), ("efficientnet_b0", {}), ("convnext_atto", {})],
)
def test_a_network_learns_no_less_exactly(name: str, options: dict[str, str], quick: bool) -> None:
    torch.manual_seed(0)
    module = BF16.place(timm.create_model(name, num_classes=5, drop_path_rate=0.0, **options)).eval()
    images = torch.randn(4, 3, 96, 96).to(memory_format=torch.channels_last)
    part = for_training(module, images) if quick else module
    short = Patches(training_patches(part, BF16))
    with BF16.autocast(), short:
        assert "_ConvolutionBackward" in ways(part(images))

    def gradient(*modes: contextlib.AbstractContextManager[object]) -> torch.Tensor:
        with contextlib.ExitStack() as inside:
            for mode in modes:
                inside.enter_context(mode)
            loss = functional.cross_entropy((part if modes else module)(images).float(), torch.arange(4))
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))])

    expected, plain, found = gradient(), gradient(BF16.autocast()), gradient(BF16.autocast(), short)
    assert float((found - expected).norm()) <= 1.2 * float((plain - expected).norm())


class Joined(nn.Module):
    """A convolution whose result is used as networks use it: something is added, an activation follows."""

    def __init__(self, conv: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.act = conv, act

    def forward(self, images: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        found = self.conv(images)
        found += other
        found: torch.Tensor = self.act(found)
        return found


class Follows(Joined):
    """The same without an addition."""

    def forward(self, images: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.act(self.conv(images))
        return found


JOINED = {
    "plain": (16, 24, 3, 1, 1, 1, 10),
    "depthwise, strided": SHORT["depthwise, strided"],
    "large, on a small map": SHORT["large, on a small map"],
}
SEEN_BY_RESULT = [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(inplace=True)]
"""Activations whose gradient follows from what came out."""


@pytest.mark.parametrize("case", JOINED)
@pytest.mark.parametrize("kind", [Joined, Follows])
@pytest.mark.parametrize("act", [*SEEN_BY_RESULT, nn.Identity(), nn.ReLU6(), nn.SiLU(inplace=True)], ids=repr)
def test_what_follows_is_done_with_it_and_learnt_through(case: str, kind: type[Joined], act: nn.Module) -> None:
    inside, outside, size, stride, padding, groups, _ = JOINED[case]
    images, *_ = made(JOINED[case])
    torch.manual_seed(0)
    conv = nn.Conv2d(inside, outside, size, stride, padding, groups=groups).to(memory_format=torch.channels_last)
    other = (3 * torch.randn_like(conv(images))).requires_grad_()
    module = kind(conv, act).to(memory_format=torch.channels_last)
    fused = fuse(fx.symbolic_trace(module), fixed=False)
    values = (images, conv.weight, conv.bias, *([other] if kind is Joined else []))
    expected = module(images, other)
    assert torch.equal(fused(images, other), expected)  # outside, one after the other
    with Patches(training_patches(fused, BF16)):
        found = fused(images, other)
    assert not {"AddBackward0", "ReluBackward0"} & ways(found)
    if act in SEEN_BY_RESULT and (kind is Follows or isinstance(act, nn.ReLU)):
        assert not {"HardtanhBackward0", "HardtanhBackward1"} & ways(found)
        assert "_ConvolutionBackward" in ways(found)
    assert close(found, expected, 1e-5)
    for one, two in zip(back(found, values), back(expected, values), strict=True):
        assert close(one, two, 1e-5)


def test_what_cannot_be_added_at_once_is_added_after() -> None:
    images, *_ = made(JOINED["plain"])
    module = Joined(nn.Conv2d(16, 24, 3, padding=1), nn.ReLU()).to(memory_format=torch.channels_last)
    fused = fuse(fx.symbolic_trace(module), fixed=False)
    with Patches(training_patches(fused, BF16)):
        for other in (torch.ones(24, 1, 1), torch.ones(3, 24, 10, 10)):
            found = fused(images, other.requires_grad_())
            assert "_ConvolutionBackward" not in ways(found)
            assert torch.equal(found, module(images, other))


@pytest.mark.parametrize("other", [replace(BF16, precision="fp32"), replace(BF16, device=torch.device("meta"))])
def test_elsewhere_nothing_is_done(other: Compute) -> None:
    module = timm.create_model("resnet18", num_classes=2)
    assert training_patches(module, BF16)
    assert not training_patches(module, other)


def test_afterwards_the_network_is_as_it_was() -> None:
    module = timm.create_model("mobilenetv2_035", num_classes=2)
    before = [dict(vars(child)) for child in module.modules()]
    short = Patches(training_patches(module, BF16))
    with contextlib.suppress(KeyboardInterrupt), short:
        assert all("forward" in vars(conv) for conv, _ in short.patches)
        raise KeyboardInterrupt
    assert [dict(vars(child)) for child in module.modules()] == before


def test_kernels_made_of_a_batchnorm_take_it_too() -> None:
    folded = Folded(nn.Conv2d(24, 24, 5, groups=24, bias=False), nn.BatchNorm2d(24).eval())
    values = torch.randn(2, 24, 9, 9, requires_grad=True)
    with Patches(training_patches(nn.Sequential(folded), BF16)):
        assert "_ConvolutionBackward" in ways(folded(values))
    assert "_ConvolutionBackward" not in ways(folded(values))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(128, 128, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(128, 128, 3, padding="same"),
        StdConv2d(128, 128, 3),
        nn.Conv2d(128, 128, 3, dilation=2),
    ],
)
def test_what_is_no_plain_convolution_is_left_alone(conv: nn.Module) -> None:
    assert not training_patches(nn.Sequential(conv, nn.Linear(784, 10)), BF16)

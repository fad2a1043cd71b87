"""A linear layer by oneDNN is the linear layer: answers, gradients, and nothing left behind."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from finetune.data.preprocess import Preprocess
from finetune.device import Compute
from finetune.evaluate.evaluation import forward_of
from finetune.model.network import Network
from finetune.speed import linear as module_of_linear
from finetune.speed.linear import LARGE, linear, linear_patches
from finetune.speed.patched import Patches
from finetune.speed.training_patches import training_patches

FP32 = Compute(torch.device("cpu"), "fp32", channels_last=False)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that gains, whatever this one is."""
    monkeypatch.setattr(module_of_linear, "mkl_is_slow", lambda: True)


@functools.cache
def made(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def by_onednn(found: torch.Tensor) -> bool:
    return type(found.grad_fn).__name__ == "_LinearBackward"


def gradients(found: torch.Tensor, *of: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(found, of, made(*found.shape)))


@pytest.mark.parametrize("shape", [(64, 784), (1, 784), (2, 5, 784), (2, 3, 7, 784)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_answers_and_gradients_are_those_of_the_layer(shape: tuple[int, ...], with_bias: bool) -> None:
    values, weight = (made(*one).clone().requires_grad_() for one in (shape, (128, 784)))
    bias = made(128).clone().requires_grad_() if with_bias else None
    given = [values, weight, *([bias] if bias is not None else [])]
    found, expected = linear(values, weight, bias), functional.linear(values, weight, bias)
    assert by_onednn(found)
    for one, other in zip([found, *gradients(found, *given)], [expected, *gradients(expected, *given)], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
    with torch.inference_mode():
        torch.testing.assert_close(linear(values, weight, bias), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)])
def test_only_what_learns_gets_a_gradient(frozen: tuple[int, ...]) -> None:
    given = [made(6, 784).clone(), made(128, 784).clone(), made(128).clone()]
    for place, value in enumerate(given):
        value.requires_grad_(place not in frozen)
    linear(*given).sum().backward()
    assert [value.grad is None for value in given] == [place in frozen for place in range(3)]


def test_values_that_lie_apart_in_memory(slow: None) -> None:
    values, weight = made(784, 6).clone().t().requires_grad_(), made(784, 128).t()
    found, expected = linear(values, weight, None), functional.linear(values, weight)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    # the gradient of a sum is one number, laid out with strides of 0
    (one,), (other,) = (torch.autograd.grad(result.sum(), (values,)) for result in (found, expected))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def test_what_is_not_computed_in_fp32_takes_pytorchs_way() -> None:
    values, weight, bias = made(6, 784), made(128, 784).clone().requires_grad_(), made(128)
    double = linear(values.double(), weight.double(), bias.double())
    assert double.dtype == torch.float64
    assert not by_onednn(double)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = linear(values, weight, bias)
    assert mixed.dtype == torch.bfloat16
    assert not by_onednn(mixed)
    with pytest.raises(RuntimeError, match="dtype"):
        linear(values.double(), weight, bias)


def test_no_rows_give_no_rows() -> None:
    found = linear(made(784).new_empty(0, 784).requires_grad_(), made(128, 784), made(128))
    assert found.shape == (0, 128)
    found.sum().backward()


def test_what_does_not_fit_is_refused_as_ever() -> None:
    with pytest.raises(RuntimeError):
        linear(made(6, 783), made(128, 784), made(128))


class Own(nn.Linear):
    """Whatever it does, it is not known here."""


def test_the_large_ones_gain_and_only_those(slow: None) -> None:
    module = nn.Sequential(
        nn.Linear(256, LARGE // 256), nn.Linear(128, 255), nn.Sequential(nn.Linear(255, 512)), Own(512, 512)
    )
    assert [found for found, _ in linear_patches(module, FP32)] == [module[0], module[2][0]]  # type: ignore[index]  # a Sequential


@pytest.mark.parametrize("other", [replace(FP32, precision="bf16"), replace(FP32, device=torch.device("meta"))])
def test_elsewhere_nothing_is_done(slow: None, other: Compute, monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.Linear(784, 128))
    assert linear_patches(module, FP32)
    assert not linear_patches(module, other)
    monkeypatch.setattr(module_of_linear, "mkl_is_slow", lambda: False)
    assert not linear_patches(module, FP32)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_a_network_answers_and_learns_as_it_does_without(
    slow: None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_of_linear, "LARGE", 2**10)
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=5).eval()
    pictures = made(3, 3, 160, 160)
    before = [dict(vars(child)) for child in module.modules()]
    names = list(module.state_dict())
    expected = module(pictures)
    wanted = torch.autograd.grad(expected.square().sum(), list(module.parameters()))
    with Patches(training_patches(module, FP32)):
        assert sum("forward" in vars(child) for child in module.modules()) > 3
        assert list(module.state_dict()) == names
        found = module(pictures)
        got = torch.autograd.grad(found.square().sum(), list(module.parameters()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4 * float(other.abs().max()) + 1e-6)
    assert [dict(vars(child)) for child in module.modules()] == before


@pytest.mark.parametrize("many", [0, 1000])
def test_predictions_take_it(slow: None, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(768, 128), nn.ReLU(), nn.Linear(128, 2)).eval()
    preprocess = Preprocess((16, 16), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)
    network = Network(module, "small/mlp", {}, ["a", "b"], preprocess, "3", {}, "none")
    pixels = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8)
    expected = module(preprocess.normalise(pixels))
    calls: list[tuple[int, ...]] = []

    def product(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        calls.append(tuple(values.shape))
        return functional.linear(values, weight, bias)

    monkeypatch.setattr(module_of_linear, "_product", product)
    with torch.inference_mode():
        torch.testing.assert_close(forward_of(network, FP32, many)(pixels), expected, rtol=1e-4, atol=1e-4)
    assert calls == [(4, 768)]


def test_a_patch_ends_whatever_happens(slow: None) -> None:
    layer = nn.Linear(784, 128)
    patches = Patches(linear_patches(layer, FP32))
    assert patches.patches
    with pytest.raises(KeyboardInterrupt), patches:
        raise KeyboardInterrupt
    assert "forward" not in vars(layer)

"""What is fused gives what its parts gave one after the other."""

from __future__ import annotations

import contextlib

import pytest
import timm
import torch
import torchvision
from torch import fx, nn
from torch.nn import functional

from finetune.speed import fused as module_of_fused
from finetune.speed.fold import Folded
from finetune.speed.fuse import fuse
from finetune.speed.fused import Fused, constant_weights, has_post_ops
from finetune.speed.optimized import for_evaluation, for_inference

NETWORKS = {
    "resnet18": {},
    "mobilenetv2_035": {"pad_type": "same", "bn_eps": 1e-3},
    "tf_efficientnetv2_b0": {},
    "mobilenetv3_small_050": {},
    "densenet121": {},
    "resnetv2_50": {},
    "convnext_atto": {},
    "test_resnet": {},
}


def lively(module: nn.Module) -> nn.Module:
    """In eval mode, its norms with statistics that none begins with."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]  # there, as it is built with statistics
            child.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]  # likewise
    return module.eval().to(memory_format=torch.channels_last)


def images(size: int, batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)


def count(module: nn.Module) -> int:
    return sum(isinstance(child, Fused) for child in module.modules())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [64, 75])
@torch.no_grad()
def test_a_fused_network_is_the_network(name: str, size: int) -> None:
    torch.manual_seed(0)
    module = lively(timm.create_model(name, num_classes=5, **NETWORKS[name]))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    fused, pictures = for_inference(module, images(size)), images(size, 4)
    assert count(fused) > 0
    whole, parts = module(pictures), fused(pictures)
    assert float((parts - whole).abs().max()) <= 1e-4 * float(whole.abs().max())
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("size", [96, 32])  # of the small ones, one pixel is left in the end
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_035", "tf_efficientnetv2_b0"])
@torch.no_grad()
def test_the_answers_are_no_worse_in_bf16(name: str, size: int, format: torch.memory_format) -> None:
    """Not the same to rounding: what is added and cut off is rounded once less."""
    torch.manual_seed(0)
    module = lively(timm.create_model(name, num_classes=5, **NETWORKS[name])).to(memory_format=format)
    pictures = images(size, 8).to(memory_format=format)
    fused = for_inference(module, images(size).to(memory_format=format))
    assert count(fused) > 0
    exact = module(pictures)
    with torch.autocast("cpu", torch.bfloat16):
        plain, found = module(pictures).float(), fused(pictures).float()
    assert float((found - exact).square().mean()) <= 2 * float((plain - exact).square().mean())


def test_a_processor_that_computes_in_bf16_fuses_in_it() -> None:
    assert has_post_ops(torch.float32)
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert has_post_ops(torch.bfloat16)


@torch.no_grad()
def test_functions_are_fused_as_modules_are() -> None:
    module = lively(torchvision.models.densenet121(weights=None, num_classes=5))
    relu = lively(torchvision.models.resnet18(weights=None, num_classes=5))
    for one in (module, relu):
        fused, pictures = for_inference(one, images(64)), images(64, 2)
        assert count(fused) > 0
        torch.testing.assert_close(fused(pictures), one(pictures), rtol=1e-4, atol=1e-5)


def test_what_is_evaluated_follows_the_weights_and_statistics_as_they_learn() -> None:
    module, pictures = lively(timm.create_model("test_resnet", num_classes=5)), images(64)
    fused = for_evaluation(module, images(64, 2))
    assert count(fused) > 0
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01, fused=True)  # changes weights without a trace
    for step in range(3):
        with torch.no_grad():
            torch.testing.assert_close(fused(pictures), module(pictures), rtol=1e-4, atol=1e-5, msg=str(step))
        before = module(pictures).detach()
        module.train()(pictures).square().sum().backward()  # moves the statistics, too
        optimizer.step()
        module.eval()
        assert float((module(pictures).detach() - before).abs().max()) > 1e-2


@torch.no_grad()
def test_while_weights_are_constant_kernels_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module, pictures = lively(timm.create_model("resnet18", num_classes=5)), images(64)
    fused = for_evaluation(module, pictures)
    made: list[Fused] = []
    weights = Fused.weights
    monkeypatch.setattr(Fused, "weights", lambda one: made.append(one) or weights(one))
    for _ in range(2):
        module.conv1.weight.mul_(1.5)
        made.clear()
        with contextlib.suppress(KeyboardInterrupt), constant_weights(fused):
            assert torch.allclose(fused(pictures), module(pictures), atol=1e-4)
            fused(pictures)
            raise KeyboardInterrupt
        assert len(made) == count(fused) == len(set(made))
    module.conv1.weight.mul_(0)
    assert torch.allclose(fused(pictures), module(pictures), atol=1e-4)
    with constant_weights(lambda values: values):
        pass


class Shortcut(nn.Module):
    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1), act

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.act(self.second(self.act(self.first(images))) + images)
        return found


@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.Hardswish()], ids=repr)
@torch.no_grad()
def test_an_activation_that_no_addition_takes_along_follows_it(act: nn.Module) -> None:
    torch.manual_seed(0)
    module, pictures = Shortcut(act).eval().to(memory_format=torch.channels_last), 5 * images(16)
    fused = for_inference(module, pictures)
    assert count(fused) == 2
    assert torch.allclose(fused(pictures), module(pictures), atol=1e-5)


def test_what_fails_in_the_making_is_said_and_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("Unary Fusion behavior undefined.")

    module, pictures = timm.create_model("resnet18", num_classes=5).eval(), images(64)
    monkeypatch.setattr(Fused, "forward", broken)
    with pytest.warns(RuntimeWarning, match="Unary Fusion"):
        assert for_inference(module, pictures) is module


def test_a_gradient_goes_through_where_one_is_asked_for() -> None:
    module, pictures = lively(timm.create_model("test_resnet", num_classes=5)), images(64)
    fused = for_evaluation(module, pictures)
    module(pictures).sum().backward()
    expected = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    fused(pictures).sum().backward()
    for name, gradient in expected.items():
        found = module.get_parameter(name).grad
        torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()), msg=name)


class Traps(nn.Module):
    """Additions that only look like those of a residual network."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three, self.four = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))
        self.narrow = nn.Conv2d(3, 3, 64)
        self.stays = nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * 1
        late = self.one(y)
        y.relu_()  # what `one` has read is overwritten before the addition
        z = late + y
        twice = self.two(z)
        z = functional.relu(twice + twice)
        kept = z * 1
        kept += self.three(z)  # changes `kept`, which is used again
        wide = self.narrow(z) + z  # of another shape
        return torch.relu(self.stays(self.four(kept) + 1.0)) + kept + wide


@torch.no_grad()
def test_what_only_looks_alike_is_left_alone() -> None:
    module, pictures = lively(Traps()), images(64)
    fused = fuse(fx.symbolic_trace(module), fixed=True)
    torch.testing.assert_close(fused(pictures.clone()), module(pictures.clone()), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_without_onednn_one_does_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    module, pictures = lively(timm.create_model("test_resnet", num_classes=5)), images(64)
    fused = for_inference(module, pictures)
    monkeypatch.setattr(module_of_fused, "has_post_ops", lambda dtype: False)
    torch.testing.assert_close(fused(pictures), module(pictures), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_numbers_that_onednn_does_not_know_are_none_of_its() -> None:
    assert not has_post_ops(torch.float64)
    conv = nn.Conv2d(3, 4, 3).double()
    pictures = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(Fused(conv, nn.ReLU(), fixed=True)(pictures), conv(pictures).relu())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_network_made_in_inference_mode_runs(mode: type[torch.no_grad]) -> None:
    with torch.inference_mode():
        module = lively(timm.create_model("test_resnet", num_classes=5))
        fused = for_inference(module, images(64))
    pictures = images(64)
    with mode():
        torch.testing.assert_close(fused(pictures), module(pictures), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_fold_with_a_norm_of_its_own_is_one_operation() -> None:
    conv, norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
    module = lively(nn.Sequential(conv, norm))
    fused, pictures = Fused(Folded(conv, norm), nn.ReLU6(), fixed=True), images(9)
    torch.testing.assert_close(fused(pictures), module(pictures).clamp(0, 6), rtol=1e-4, atol=1e-5)

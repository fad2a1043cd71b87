"""Folding a BatchNorm into the convolution before it changes rounding, and nothing else."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import fx, nn

from finetune.model.freeze import set_learning, set_modes
from finetune.model.trace import copy_sharing_parameters, trace_and_run
from finetune.speed.fold import fold
from finetune.speed.optimized import for_inference, for_training


def lively(module: nn.Module) -> nn.Module:
    """In eval mode, with statistics and weights that no norm begins with."""
    generator = torch.Generator().manual_seed(0)
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            for tensor, low in ((child.running_mean, -0.5), (child.running_var, 0.5), (child.weight, 0.5)):
                assert tensor is not None
                tensor.data.uniform_(low, low + 1, generator=generator)
            child.bias.data.uniform_(-0.5, 0.5, generator=generator)
    return module.eval()


def traced(module: nn.Module, size: int) -> fx.GraphModule:
    found = trace_and_run(copy_sharing_parameters(module), torch.randn(2, 3, size, size), {})
    return fx.GraphModule(found.module, found.graph)


def norms(module: nn.Module) -> int:
    return sum(isinstance(child, nn.BatchNorm2d) for child in module.modules())


@pytest.mark.parametrize(
    ("name", "options", "left"),
    [
        ("resnet18", {}, 0),
        ("mobilenetv2_035", {"pad_type": "same", "bn_eps": 1e-3}, 0),
        ("test_efficientnet", {}, 0),
        ("densenet121", {}, None),  # norms before convolutions stay
        ("convnext_atto", {}, 0),  # has none
    ],
)
def test_the_folded_network_is_the_network(name: str, options: dict[str, object], left: int | None) -> None:
    module = lively(timm.create_model(name, num_classes=5, **options))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    graph, images = traced(module, 64), torch.randn(3, 3, 64, 64)
    folded = fold(graph)
    with torch.no_grad():
        whole, found = module(images), folded(images)
    assert float((found - whole).abs().max()) <= 1e-4 * float(whole.abs().max())
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert norms(folded) == left if left is not None else 0 < norms(folded) < norms(graph)


class Traps(nn.Module):
    """A convolution that is seen elsewhere too, one that runs twice, and a norm that follows no convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.twice, self.own = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.after_seen, self.after_twice, self.after_own, self.alone = (nn.BatchNorm2d(3) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.seen(x)
        once = self.after_twice(self.twice(seen + self.after_seen(seen)))
        return self.own(self.after_own(self.own(self.alone(self.twice(once) + once))))


def test_what_is_used_elsewhere_is_not_folded() -> None:
    module = lively(Traps())
    graph, images = traced(module, 8), torch.randn(4, 3, 8, 8)
    assert fold(graph) is graph
    torch.testing.assert_close(fold(graph)(images), module(images))


def test_a_whole_network_is_folded_for_inference() -> None:
    module, images = lively(timm.create_model("resnet18", num_classes=5)), torch.randn(7, 3, 64, 64)
    folded = for_inference(module, torch.zeros(2, 3, 64, 64))
    assert norms(folded) == 0
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), module(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frozen", [(), ("conv_stem.", "bn1.", "blocks.0.0.bn1.")])
def test_what_learns_gets_the_gradients_that_it_would_have_got(frozen: tuple[str, ...]) -> None:
    module = lively(timm.create_model("test_efficientnet", num_classes=5, drop_rate=0.2)).double()
    learning = {name for name, _ in module.named_parameters() if not name.startswith(frozen or ("-",))}
    set_learning(module, learning)
    set_modes(module, learning, keep_statistics=True)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    images = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    folded = for_training(module, images)
    assert folded is not module
    gradients = []
    for part in (module, folded):
        module.zero_grad()
        torch.manual_seed(0)  # of the dropout before the head
        part(images).square().sum().backward()
        gradients.append({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() == learning
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-6, atol=1e-9, msg=name)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_a_folded_network_follows_its_own_weights() -> None:
    module = lively(timm.create_model("test_resnet", num_classes=5))
    images = torch.randn(3, 3, 64, 64)
    folded = for_training(module, images)
    assert folded is not module
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.1)
        torch.testing.assert_close(folded(images), module(images), rtol=1e-4, atol=1e-5)


class Untraceable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) if float(x.sum()) > 0 else x.flatten(1) * 2


def test_what_cannot_be_traced_stays_as_it_is() -> None:
    module = Untraceable()
    assert for_training(module, torch.zeros(2, 3, 8, 8)) is module
    assert for_inference(module, torch.zeros(2, 3, 8, 8)) is module


def test_a_norm_that_is_learning_its_statistics_is_not_folded() -> None:
    module = lively(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    assert norms(fold(fx.symbolic_trace(copy.deepcopy(module)))) == 0
    module.train()
    assert norms(fold(fx.symbolic_trace(module))) == 1

"""The quick step of an optimizer beside PyTorch's own: the same weights and the same state, to the bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from finetune.speed.adam import KeptAdam, fast_step

FORMATS = [torch.channels_last, torch.contiguous_format]
PLAIN = [torch.optim.AdamW, torch.optim.Adam]


def module(layout: torch.memory_format = torch.channels_last) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1)).to(memory_format=layout)


def optimizer_of(network: nn.Module, kind: type[torch.optim.Optimizer]) -> torch.optim.Optimizer:
    parameters = list(network.parameters())
    groups = [{"params": parameters[:3], "lr": 0.1}, {"params": parameters[3:], "lr": 0.02, "weight_decay": 0.3}]
    return kind(groups, fused=True)


def learn(network: nn.Module, step: Callable[[], object], steps: int, without: int | None = None) -> None:
    """Steps on random gradients; the parameter of the number `without` has none."""
    for _ in range(steps):
        for number, parameter in enumerate(network.parameters()):
            parameter.grad = None if number == without else torch.randn_like(parameter)
        step()


def both(
    kind: type[torch.optim.Optimizer], work: Callable[[nn.Module, torch.optim.Optimizer, Callable[[], object]], None]
) -> None:
    """Do the work with either step, and compare."""
    found = []
    for quick in (False, True):
        network = module()
        optimizer = optimizer_of(network, kind)
        work(network, optimizer, fast_step(optimizer) if quick else optimizer.step)
        found.append(everything(network, optimizer))
    require_same(*found)


def everything(network: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    state = [value for parameter in network.parameters() for value in optimizer.state[parameter].values()]
    return [*(parameter.detach() for parameter in network.parameters()), *state]


def require_same(some: list[torch.Tensor], others: list[torch.Tensor]) -> None:
    for one, other in zip(some, others, strict=True):
        assert torch.equal(one, other)
        assert one.stride() == other.stride()


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("kind", PLAIN)
def test_it_is_the_step_to_the_bit(kind: type[torch.optim.Optimizer], layout: torch.memory_format) -> None:
    found = []
    for quick in (False, True):
        network = module(layout)
        optimizer = optimizer_of(network, kind)
        learn(network, fast_step(optimizer) if quick else optimizer.step, 3)
        found.append(everything(network, optimizer))
    require_same(*found)


@pytest.mark.parametrize("kind", PLAIN)
def test_what_has_no_gradient_rests_and_goes_on_later(kind: type[torch.optim.Optimizer]) -> None:
    def work(network: nn.Module, _: torch.optim.Optimizer, step: Callable[[], object]) -> None:
        for without in (0, 1, None, 4, 5, None):
            learn(network, step, 2, without)

    both(kind, work)


def test_a_loaded_state_is_the_one_that_counts() -> None:
    def work(network: nn.Module, optimizer: torch.optim.Optimizer, step: Callable[[], object]) -> None:
        learn(network, step, 2)
        state = optimizer.state_dict()
        saved = {**state, "state": {number: {**values} for number, values in state["state"].items()}}
        for values in saved["state"].values():
            values.update((name, value.clone()) for name, value in values.items())
        learn(network, step, 3)
        optimizer.load_state_dict(saved)
        learn(network, step, 2)

    both(torch.optim.AdamW, work)


def test_a_rate_that_changes_is_followed() -> None:
    def work(network: nn.Module, optimizer: torch.optim.Optimizer, step: Callable[[], object]) -> None:
        for rate in (0.1, 0.05, 0.0):
            for group in optimizer.param_groups:
                group["lr"] = rate
            learn(network, step, 1)

    both(torch.optim.Adam, work)


@pytest.mark.parametrize("fused", [True, False])
def test_sgd_takes_its_own_step(fused: bool) -> None:
    found = []
    for quick in (False, True):
        network = module()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, fused=fused)
        step = fast_step(optimizer) if quick else optimizer.step
        assert not isinstance(step, KeptAdam)
        learn(network, step, 3)
        found.append([parameter.detach() for parameter in network.parameters()])
    require_same(*found)


def test_an_adam_that_is_not_fused_takes_its_own_step() -> None:
    assert not isinstance(fast_step(torch.optim.AdamW(module().parameters(), fused=False)), KeptAdam)

"""Several threads may run networks at once: the numbers are those of one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import timm
import torch
from torch import nn

from finetune.device import Compute
from finetune.model.cut import cut
from finetune.speed import linear
from finetune.speed.api import optimize_cut, optimize_for_inference, optimizer_step
from finetune.speed.patched import Patch, Patches

FP32 = Compute(torch.device("cpu"), "fp32", channels_last=True)
BF16 = Compute(torch.device("cpu"), "bf16", channels_last=True)


@pytest.fixture(autouse=True)
def one_thread_each(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And linear layers that are patched whatever processor this is."""
    monkeypatch.setattr(linear, "mkl_is_slow", lambda: True)
    monkeypatch.setattr(linear, "LARGE", 2**8)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def together(*jobs: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
    """What the jobs give when each runs in a thread of its own, all begun at once."""
    found: dict[int, torch.Tensor] = {}
    failed: list[BaseException] = []
    barrier = threading.Barrier(len(jobs))

    def work(number: int, job: Callable[[], torch.Tensor]) -> None:
        try:
            torch.set_num_threads(1)  # OpenMP's number is a thread's own
            barrier.wait(30)
            found[number] = job()
        except BaseException as error:  # whatever a thread raises, the test shows it
            failed.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failed, failed
    return [found[number] for number in range(len(jobs))]


def images(seed: int, batch: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, 64, 64, generator=generator).to(memory_format=torch.channels_last)


def predicting(run: Callable[..., torch.Tensor], seed: int, rounds: int = 12) -> Callable[[], torch.Tensor]:
    def job() -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([run(images(seed + number)) for number in range(rounds)])

    return job


def made(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=5, **options).eval().to(memory_format=torch.channels_last)


@pytest.mark.parametrize(("name", "options"), [("test_resnet", {}), ("test_vit", {"img_size": 64})])
@pytest.mark.parametrize("traced", [True, False])
def test_two_threads_predict_with_one_network(name: str, options: dict[str, int], traced: bool) -> None:
    module = made(name, **options)
    run = optimize_for_inference(module, images(0, 2) if traced else None, FP32)
    jobs = [predicting(run, 100), predicting(run, 200), predicting(module, 300)]
    expected = [job() for job in jobs]
    for one, other in zip(together(*jobs), expected, strict=True):
        assert torch.equal(one, other)
    assert not any("forward" in vars(child) for child in module.modules())


def training(compute: Compute) -> torch.Tensor:
    """The weights of a network with dropout after some steps, made faster first."""
    module = made("test_efficientnet", drop_rate=0.3)
    module.train()
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.eval()
    names = {name for name, _ in module.named_parameters()}
    fast = optimize_cut(cut(module, names, example=images(0, 2)), module, images(0, 2), compute)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)
    step = optimizer_step(optimizer, compute)
    for number in range(6):
        torch.default_generator.manual_seed(number)
        optimizer.zero_grad()
        with compute.autocast():
            logits = fast.suffix(images(number)).float()
        nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
        step()
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


@pytest.mark.parametrize("compute", [FP32, BF16], ids=["fp32", "bf16"])
def test_one_trains_while_another_makes_its_network_ready_and_predicts(compute: Compute) -> None:
    other = made("test_resnet")

    def tracing() -> torch.Tensor:
        """Traces again and again, as every new Predictor does."""
        with torch.inference_mode():
            return torch.cat([optimize_for_inference(other, images(0, 2), FP32)(images(n)) for n in range(8)])

    jobs = [lambda: training(compute), tracing, predicting(other, 50)]
    expected = [job() for job in jobs]
    for one, alone in zip(together(*jobs), expected, strict=True):
        assert torch.equal(one, alone)


def test_a_patch_is_the_asking_threads_own() -> None:
    module = nn.Linear(2, 2)
    inside, checked = threading.Event(), threading.Event()
    zeros = Patches([Patch(module, lambda values: torch.zeros(1))])
    ones = Patches([Patch(module, lambda values: torch.ones(1))])

    def other() -> None:
        with ones:
            inside.set()
            checked.wait(30)
            assert float(module(torch.ones(1, 2))) == 1

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(30)
    plain = nn.functional.linear(torch.ones(1, 2), module.weight, module.bias)
    assert torch.equal(module(torch.ones(1, 2)), plain)  # another thread's patch is none of ours
    with zeros:
        assert float(module(torch.ones(1, 2))) == 0
    assert torch.equal(module(torch.ones(1, 2)), plain)
    checked.set()
    thread.join(30)
    assert "forward" not in vars(module)


def test_a_forward_of_the_users_own_is_left_alone() -> None:
    module = nn.Linear(2, 2)
    vars(module)["forward"] = lambda values: values
    with Patches([Patch(module, lambda values: torch.zeros(1))]):
        assert torch.equal(module(torch.ones(1, 2)), torch.ones(1, 2))
    assert "forward" in vars(module)

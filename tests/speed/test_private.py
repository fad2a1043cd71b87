"""A private name of PyTorch that is missing, or gives other numbers, turns one measure off and nothing else."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import finetune.speed
from finetune.device import Compute
from finetune.model.cut import cut
from finetune.speed import adam, convolution, fused, linear, relu_bf16
from finetune.speed.api import optimize_cut, optimize_for_inference, optimizer_step
from finetune.speed.private import PRIVATE

MODULES = [
    importlib.import_module(f"finetune.speed.{about.name}") for about in pkgutil.iter_modules(finetune.speed.__path__)
]
ASKED = (
    adam.has_adam,
    convolution.has_native_gradients,
    fused.has_post_ops,
    linear.has_linear,
    relu_bf16.has_relu_bits,
)
"""What remembers whether its measure works."""
BF16 = Compute(torch.device("cpu"), "bf16", channels_last=True)
NAMES = [(measure, name) for measure, names in PRIVATE.items() for name in names]


class Without:
    """`torch`, or a part of it, without one name (`gone`), or with another function under it."""

    def __init__(self, whole: Any, name: str, instead: Callable[..., Any] | None) -> None:
        self._whole, self._instead = whole, instead
        self._first, _, self._rest = name.partition(".")

    def __getattr__(self, name: str) -> Any:
        if name != self._first:
            return getattr(self._whole, name)
        if self._rest:
            return Without(getattr(self._whole, name), self._rest, self._instead)
        if self._instead is None:
            raise AttributeError(f"module 'torch' has no attribute '{name}'")
        return self._instead


@pytest.fixture(autouse=True)
def found_out_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(linear, "mkl_is_slow", lambda: True)
    for asked in ASKED:
        asked.cache_clear()
    yield
    for asked in ASKED:
        asked.cache_clear()


def hide(name: str, monkeypatch: pytest.MonkeyPatch, instead: Callable[..., Any] | None = None) -> None:
    if name.startswith("Tensor."):  # a method is reached through the tensor, not through `torch`

        def gone(self: torch.Tensor) -> None:
            raise AttributeError(name)

        monkeypatch.setattr(torch.Tensor, name.removeprefix("Tensor."), property(gone), raising=False)
        return
    for module in MODULES:
        if getattr(module, "torch", None) is torch:
            monkeypatch.setattr(module, "torch", Without(torch, name, instead))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 5, padding=2, groups=8),
        nn.ReLU6(inplace=True),
        nn.Conv2d(8, 8, 1),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(8 * 64, 64),
        nn.ReLU(),
        nn.Linear(64, 2),
    ).to(memory_format=torch.channels_last)


def job(compute: Compute) -> torch.Tensor:
    """Two steps in bf16, two in fp32, and answers; all that came of it in one vector."""
    found = []
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)
    for precision in ("bf16", "fp32"):
        compute, module = replace(compute, precision=precision), network().eval()
        whole = cut(module, {name for name, _ in module.named_parameters()}, example=images[:2])
        fast = optimize_cut(whole, module, images[:2], compute)
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)
        step = optimizer_step(optimizer, compute)
        for _ in range(2):
            optimizer.zero_grad()
            with compute.autocast():
                logits = fast.suffix(images).float()
            nn.functional.cross_entropy(logits, torch.tensor([0, 1, 1, 0])).backward()
            step()
        with torch.inference_mode():
            found.append(optimize_for_inference(module, images[:2], replace(compute, precision="fp32"))(images))
    return torch.cat([answer.flatten() for answer in found])


@pytest.mark.parametrize(("measure", "name"), NAMES)
def test_a_name_that_is_gone_turns_its_measures_off_with_a_warning_each(
    measure: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = job(replace(BF16, speed="off"))
    hide(name, monkeypatch)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = job(BF16)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    lines = [str(one.message) for one in said]
    about = [line for line in lines if line.startswith(f"{measure}: off")]
    # of convolutions fused in fp32 and in bf16 each is tried by itself
    assert len(about) in ((1, 2) if measure == "fused convolutions" else (1,)), lines
    assert name in about[0]
    others = {other for other, names in PRIVATE.items() if name in names}
    assert all(line.split(":")[0] in others for line in lines), lines


@pytest.mark.parametrize(
    ("measure", "name"), [pair for pair in NAMES if pair[1] not in ("Tensor._is_view", "_foreach_add_")]
)
def test_a_name_that_gives_other_numbers_is_not_used(measure: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = job(replace(BF16, speed="off"))
    original = torch
    for part in name.split("."):
        original = getattr(original, part)

    class Wrong:
        """Gives something of the right shape, and wrong."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)  # type: ignore[operator]  # a function of PyTorch's
            if isinstance(result, torch.Tensor):
                return result + 1
            if result is None:
                args[0][0].add_(1)
                return None
            return tuple(None if part is None else part + 1 for part in result)

        binary = __call__

    hide(name, monkeypatch, Wrong())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = job(BF16)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    assert any(str(one.message).startswith(f"{measure}: off") for one in said)


def test_here_every_measure_works() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(asked() for asked in ASKED if asked is not fused.has_post_ops)
        assert fused.has_post_ops(torch.float32)


def test_every_private_name_of_the_room_is_in_the_list() -> None:
    known = {name for names in PRIVATE.values() for name in names}
    used = set()
    for module in MODULES:
        assert module.__file__ is not None
        for node in ast.walk(ast.parse(Path(module.__file__).read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and (path := dotted(node)) and path.startswith("torch."):
                name = path.removeprefix("torch.")
                if (name.startswith("ops.") and name.count(".") >= 2) or name.rpartition(".")[2].startswith("_"):
                    used.add(".".join(name.split(".")[:3]))
    assert used == {name for name in known if not name.startswith("Tensor.")}


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := dotted(node.value)):
        return f"{before}.{node.attr}"
    return ""

"""A ReLU by bits is the ReLU, for every number that there is in bf16."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from finetune.speed.relu_bf16 import gradient_of_relu, relu_bf16

EVERY = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
"""All bf16 numbers, infinities and NaNs of both signs among them."""


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal number by number; a NaN is one."""
    return torch.equal(found.isnan(), expected.isnan()) and torch.equal(found.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize("in_place", [False, True])
def test_every_number_and_its_gradient(in_place: bool) -> None:
    along = torch.randn(len(EVERY), generator=torch.Generator().manual_seed(0)).bfloat16()
    results = []
    for way in (relu_bf16, nn.ReLU.forward):
        values = EVERY.clone().requires_grad_()
        found = way(nn.ReLU(inplace=in_place), values * 1)
        (gradient,) = torch.autograd.grad(found, values, along)
        results.append((found.detach(), gradient))
    (found, gradient), (expected, whole) = results
    assert same(found, expected)
    numbers = ~EVERY.isnan()
    assert torch.equal(gradient[numbers], whole[numbers])


def test_a_gradient_that_is_no_number_stays_one() -> None:
    result = torch.ones_like(EVERY)
    assert same(gradient_of_relu(EVERY, result), EVERY)
    assert not gradient_of_relu(EVERY, torch.zeros_like(EVERY)).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_types_go_the_usual_way(dtype: torch.dtype) -> None:
    values = torch.randn(100, dtype=dtype, requires_grad=True)
    found = relu_bf16(nn.ReLU(), values)
    assert type(found.grad_fn).__name__ == "ReluBackward0"
    assert torch.equal(gradient_of_relu(values.detach(), found.detach()), values.detach().clamp_min(0))


def test_in_place_it_changes_what_it_is_given_and_nothing_else() -> None:
    module, values = nn.ReLU(inplace=True), torch.randn(2, 6, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    before = values * 1
    found = relu_bf16(module, before)
    assert found.data_ptr() == before.data_ptr()
    total = relu_bf16(module, values.exp()).sum()  # the gradient of `exp` is made of its result
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()
    part = (values * 1)[:, :3]  # a view: the rest stays as it was
    relu_bf16(module, part).sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad[:, :3], (values[:, :3] > 0).bfloat16())
    with torch.no_grad():
        assert relu_bf16(module, values.detach().clone()).grad_fn is None

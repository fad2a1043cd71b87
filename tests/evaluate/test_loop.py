"""The no-grad loop: order, dtype, no gradient, and the loader is closed whatever happens."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from finetune.evaluate.loop import infer

PIXELS = torch.arange(5 * 2 * 2 * 3, dtype=torch.uint8).reshape(5, 2, 2, 3)


class Batches:
    """Batches in a given order, and whether they were closed."""

    def __init__(self, *batches: list[int]) -> None:
        self.closed = False
        self._batches = iter(batches)

    def __iter__(self) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        return self

    def __next__(self) -> tuple[np.ndarray, torch.Tensor]:
        indices = next(self._batches)
        return np.array(indices), PIXELS[indices]

    def close(self) -> None:
        self.closed = True


def forward(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float().mean(dim=(1, 2))


def test_rows_come_in_the_order_of_the_indices() -> None:
    expected = forward(PIXELS).numpy()
    seen: list[int] = []
    logits = infer(forward, Batches([4, 0], [3, 1], [2]), seen.append)
    np.testing.assert_array_equal(logits, expected)
    assert logits.dtype == np.float32
    assert seen == [2, 4, 5]


def test_indices_may_be_a_part_of_the_set() -> None:
    np.testing.assert_array_equal(infer(forward, Batches([4], [2])), forward(PIXELS[[2, 4]]).numpy())


def test_half_precision_comes_out_as_float32() -> None:
    assert infer(lambda x: forward(x).bfloat16(), Batches([0, 1])).dtype == np.float32


def test_no_gradient_is_recorded_and_the_loader_stays_outside() -> None:
    weight = torch.ones(3, requires_grad=True)
    inside: list[bool] = []

    def learned(pixels: torch.Tensor) -> torch.Tensor:
        inside.append(torch.is_inference_mode_enabled())
        return forward(pixels) * weight

    infer(learned, Batches([0, 1]), lambda done: inside.append(torch.is_inference_mode_enabled()))
    assert inside == [True, False]
    assert weight.grad is None


def test_no_batch_gives_no_row() -> None:
    assert infer(forward, Batches()).shape == (0, 0)


def test_the_batches_are_closed_however_it_ends() -> None:
    batches = Batches([0], [1])

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        infer(forward, batches, stop)
    assert batches.closed

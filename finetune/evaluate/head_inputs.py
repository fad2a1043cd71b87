"""Keeps what enters the head while images are evaluated: their vectors, for no extra work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from finetune.model.network import Network
from finetune.model.stages import StagesHead


@contextmanager
def keep_head_inputs(network: Network, keep: bool = True) -> Iterator[list[np.ndarray]]:
    """Inside, every forward pass of the network's module leaves what enters its head, float32 [N, features] a pass.

    They are the vectors of `make_encoder` for the last group before the head, for no work of their own. A network that
    was made faster does not call its modules and leaves none; nor does one whose head takes anything but vectors.

    Args:
        network: at work.
        wanted: False leaves none.
    """
    vectors: list[np.ndarray] = []
    head = network.module.get_submodule(network.head)

    def take(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if keep and len(inputs) == 1 and inputs[0].ndim == 2:
            value = head.joined(inputs[0]) if isinstance(head, StagesHead) else inputs[0]
            vectors.append(value.detach().float().cpu().numpy().copy())

    handle = head.register_forward_pre_hook(take)
    try:
        yield vectors
    finally:
        handle.remove()

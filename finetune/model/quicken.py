"""The same network, faster: BatchNorm folded into convolutions, and these fused with what follows them.

Nothing is taken on trust: what is made is run on noise beside what it was made of, and where the two disagree, or the
network's own code cannot be traced, the part stays as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from finetune.device import own_randomness
from finetune.model.fold import Folded, fold
from finetune.model.fuse import fuse
from finetune.model.trace import around, follow, twin

TOLERANCE = 1e-2
"""Largest deviation of what a part gives, as a share of the largest value: far above rounding, so that whether it is
made faster does not hang on what the weights are, and a resumed run decides as the run did; what a network's own code
may make go wrong is far above this."""


def noise(example: torch.Tensor, batch: int) -> torch.Tensor:
    """Images like the example, but no two alike.

    Args:
        example: float [N, C, H, W]; only shape, type, device and memory format count.
        batch: how many.
    """
    images = torch.randn(batch, *example.shape[1:], dtype=example.dtype, device=example.device)
    last = example.is_contiguous(memory_format=torch.channels_last)
    return images.to(memory_format=torch.channels_last) if last else images


def for_inference(part: nn.Module, *values: torch.Tensor) -> nn.Module:
    """A part whose weights stay as they are, in eval mode.

    Args:
        part: left as it is.
        values: what it takes, each [N, ...]; not of a size of batch that it was traced with.

    Returns:
        A module for inference that gives the same to rounding; the part itself where it cannot be made faster.
    """
    return _faster(part, values, lambda graph: fuse(fold(graph), fixed=True))


def for_judging(part: nn.Module, *values: torch.Tensor) -> nn.Module:
    """The same for a part whose weights go on learning; what is returned follows them."""
    return _faster(part, values, lambda graph: fuse(fold(graph, Folded), fixed=False))


def for_learning(part: nn.Module, *values: torch.Tensor) -> nn.Module:
    """A part that learns, with the BatchNorms folded that keep their statistics, and its convolutions `Fused`.

    It runs the same submodules, in the modes that they are in now, and the gradients go to the same parameters.

    Args:
        part: all its BatchNorms in eval mode; left as it is.
        values: what it takes, each [N, ...].
    """
    return _faster(part, values, lambda graph: fuse(fold(graph, Folded), fixed=False))


def _faster(
    part: nn.Module, values: tuple[torch.Tensor, ...], change: Callable[[fx.GraphModule], fx.GraphModule]
) -> nn.Module:
    with own_randomness(), torch.no_grad():
        try:
            graph = part if isinstance(part, fx.GraphModule) else _traced(part, *values)
        except Exception:  # a network's own code, run in an unusual way, may raise anything; as it is, it still works
            return part
        whole = _seeded(part, values)
        try:
            faster = change(graph)
            found = _seeded(faster, values)
        except Exception as error:  # the work is ours, so whatever fails is ours too; as it was, the part still works
            warnings.warn(f"left as slow as it is: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2)
            return part
    return faster if faster is not graph and _agree(whole, found) else part


def _seeded(part: nn.Module, values: tuple[torch.Tensor, ...]) -> Any:
    torch.manual_seed(0)
    return part(*values)


def _traced(module: nn.Module, images: torch.Tensor) -> fx.GraphModule:
    found = follow(twin(module), images, {})
    return around(found.graph, found.module, module)


def _agree(whole: Any, parts: Any) -> bool:
    if isinstance(whole, tuple):
        return all(_agree(one, other) for one, other in zip(whole, parts, strict=True))
    return float((parts - whole).abs().max()) <= TOLERANCE * max(float(whole.abs().max()), 1e-6)

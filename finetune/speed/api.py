"""The one door to this room: every other module of it is private, and `speed: off` imports none of them.

Nothing here changes what is computed, beyond rounding; each measure says in its own file what it gains, where, and what
it falls back to. `Compute.speed` is the switch (`train.speed` in a recipe, `FINETUNE_SPEED=off` for every command).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from finetune.device import Compute
from finetune.model.cut import Cut


def optimize_cut(cut: Cut, module: nn.Module, example: torch.Tensor | None, compute: Compute) -> Cut:
    """The same cut, each of its parts as fast as it can be made.

    Args:
        cut: of `module`, for the phase that it is in.
        module: the network, in the modes of the phase; left as it is.
        example: images as the network gets them; without one, no part is traced.
        compute: where and how it will run.

    Returns:
        A cut whose `prefix` and `eval_suffix` serve inference only.
    """
    if compute.speed == "off":
        return cut
    from finetune.speed.optimized import optimized_cut

    return optimized_cut(cut, module, example, compute)


def optimize_for_inference(
    module: nn.Module, example: torch.Tensor | None, compute: Compute
) -> Callable[..., torch.Tensor]:
    """A network in eval mode whose weights stay as they are, as fast as it can be made.

    Args:
        module: left as it is.
        example: images as the network gets them; None where tracing the network is not worth its time.
        compute: where and how it will run.

    Returns:
        Images → logits, as `module`; it may be called from several threads at once.
    """
    if compute.speed == "off":
        return module
    from finetune.speed.optimized import optimized_for_inference

    return optimized_for_inference(module, example, compute)


def constant_weights(part: Callable[..., Any]) -> contextlib.AbstractContextManager[None]:
    """Inside, the weights of a part of an optimized cut do not change, so that kernels are made of them once."""
    hold: Callable[[], contextlib.AbstractContextManager[None]] | None = getattr(part, "constant_weights", None)
    return contextlib.nullcontext() if hold is None else hold()


def optimizer_step(optimizer: torch.optim.Optimizer, compute: Compute) -> Callable[[], object]:
    """`optimizer.step`, the same to the bit."""
    if compute.speed == "off":
        return optimizer.step
    from finetune.speed.adam import fast_step

    return fast_step(optimizer)


def cache_key(compute: Compute) -> list[str]:
    """The measures that change the last bits of inference on this machine: part of the key of what is cached."""
    if compute.speed == "off":
        return []
    from finetune.speed.optimized import measures

    return measures(compute)

"""The same network, faster: BatchNorm folded into convolutions, and these fused with what follows them.

What it gains, on which processor and when, is in `fold.py`, `fused.py` and `training_patches.py`. Nothing is taken on
trust: what is made is run on noise beside what it was made of, and where the two disagree, or the network's own code
cannot be traced, the part stays as it is.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from finetune.device import Compute, own_randomness
from finetune.model.cut import Cut, evaluating, noise
from finetune.model.freeze import live_batchnorm
from finetune.model.trace import around, copy_sharing_parameters, trace_and_run
from finetune.speed.fold import Folded, fold
from finetune.speed.fuse import fuse
from finetune.speed.fused import constant_weights, has_post_ops
from finetune.speed.linear import has_fast_linear, linear_patches
from finetune.speed.patched import Patch, Patches
from finetune.speed.training_patches import training_patches

TOLERANCE = 1e-2
"""Largest deviation of what a part gives, as a share of the largest value: far above rounding, so that whether it is
made faster does not depend on what the weights are, and a resumed run decides as the run did; what a network's own code
may make go wrong is far above this."""


class Optimized:
    """A part of a network as it is run: perhaps another module than the one it was made of, perhaps with patches.

    Args:
        part: what is run.
        patches: while it runs.
    """

    def __init__(self, part: Callable[..., Any], patches: Iterable[Patch]) -> None:
        self.part, self.patches = part, Patches(patches)

    def __call__(self, *values: torch.Tensor) -> Any:
        """The result of `part`, with its patches."""
        with self.patches:
            return self.part(*values)

    def constant_weights(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the weights stay as they are, so that kernels are made of them once."""
        return constant_weights(self.part)


def optimized_cut(cut: Cut, module: nn.Module, example: torch.Tensor | None, compute: Compute) -> Cut:
    """See `api.optimize_cut`."""
    prefix, suffix, eval_suffix = cut.prefix, cut.suffix, cut.eval_suffix
    if example is not None:
        with torch.no_grad():
            images = _probe(example)
            values = cut.prefix(images)
        if isinstance(prefix, nn.Module):
            prefix = for_inference(prefix, images)
        if isinstance(eval_suffix, nn.Module):
            with evaluating(module):
                eval_suffix = for_evaluation(eval_suffix, *values)
        if isinstance(suffix, nn.Module) and not live_batchnorm(module):
            suffix = for_training(suffix, *values)
    learning = suffix if isinstance(suffix, nn.Module) else module
    return replace(
        cut,
        prefix=prefix if cut.no_prefix else Optimized(prefix, linear_patches(prefix, compute)),
        suffix=Optimized(suffix, training_patches(learning, compute)),
        eval_suffix=Optimized(eval_suffix, linear_patches(eval_suffix, compute)),
    )


def optimized_for_inference(module: nn.Module, example: torch.Tensor | None, compute: Compute) -> Optimized:
    """See `api.optimize_for_inference`."""
    part = module if example is None else for_inference(module, _probe(example))
    return Optimized(part, linear_patches(part, compute))


def measures(compute: Compute) -> list[str]:
    """See `api.cache_key`."""
    if compute.device.type != "cpu":
        return ["folded"]
    dtype = torch.bfloat16 if compute.precision == "bf16" else torch.float32
    names = ["folded", "fused" if has_post_ops(dtype) else ""]
    return [name for name in (*names, "linear" if has_fast_linear(compute) else "") if name]


# --- the parts -------------------------------------------------------------------------------------------------------


def for_inference(part: nn.Module, *values: torch.Tensor) -> nn.Module:
    """A part whose weights stay as they are, in eval mode.

    Args:
        part: left as it is.
        values: what it takes, each [N, ...]; not of a size of batch that it was traced with.

    Returns:
        A module for inference that gives the same to rounding; the part itself where it cannot be made faster.
    """
    return _faster(part, values, lambda graph: fuse(fold(graph), fixed=True))


def for_evaluation(part: nn.Module, *values: torch.Tensor) -> nn.Module:
    """The same for a part whose weights go on learning; what is returned follows them."""
    return _faster(part, values, lambda graph: fuse(fold(graph, Folded), fixed=False))


def for_training(part: nn.Module, *values: torch.Tensor) -> nn.Module:
    """A part that learns, with the BatchNorms folded that keep their statistics, and its convolutions `Fused`.

    It runs the same submodules, in the modes that they are in now, and the gradients go to the same parameters.

    Args:
        part: all its BatchNorms in eval mode; left as it is.
        values: what it takes, each [N, ...].
    """
    with own_randomness():  # it may hold dropout, which draws from the global random state
        return _faster(part, values, lambda graph: fuse(fold(graph, Folded), fixed=False), seeded=True)


def _faster(
    part: nn.Module,
    values: tuple[torch.Tensor, ...],
    change: Callable[[fx.GraphModule], fx.GraphModule],
    seeded: bool = False,
) -> nn.Module:
    def run(module: nn.Module) -> Any:
        if seeded:  # in inference nothing is drawn, and another thread's random state is not touched
            torch.manual_seed(0)
        return module(*values)

    with torch.no_grad():
        try:
            graph = part if isinstance(part, fx.GraphModule) else _traced(part, *values)
        except Exception:  # a network's own code, run in an unusual way, may raise anything; as it is, it still works
            return part
        expected = run(part)
        try:
            faster = change(graph)
            result = run(faster)
        except Exception as error:  # the work is ours, so whatever fails is ours too; as it was, the part still works
            warnings.warn(f"left as slow as it is: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2)
            return part
    return faster if faster is not graph and _agree(expected, result) else part


def _probe(example: torch.Tensor) -> torch.Tensor:
    """Three images: a size of batch that nothing was traced or settled with. The same ones each time."""
    return noise(example, 3, torch.Generator(example.device).manual_seed(0))


def _traced(module: nn.Module, images: torch.Tensor) -> fx.GraphModule:
    trace = trace_and_run(copy_sharing_parameters(module), images, {})
    return around(trace.graph, trace.module, module)


def _agree(whole: Any, parts: Any) -> bool:
    if isinstance(whole, tuple):
        return all(_agree(left, right) for left, right in zip(whole, parts, strict=True))
    return float((parts - whole).abs().max()) <= TOLERANCE * max(float(whole.abs().max()), 1e-6)

"""Decides which phases are solved instead of trained: those in which only one linear layer learns."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import nn

from finetune.errors import UsageError, called, setting
from finetune.model.cut import Cut
from finetune.model.freeze import owner
from finetune.model.plan import Phase
from finetune.train.state import Settings


def linear_layer(module: nn.Module, learning: Collection[str]) -> nn.Linear | None:
    """The one linear layer with bias whose parameters are exactly those that learn, if there is one."""
    names = {owner(name) for name in learning}
    layer = module.get_submodule(names.pop()) if len(names) == 1 else None
    return layer if isinstance(layer, nn.Linear) and layer.bias is not None and len(learning) == 2 else None


def choose_optimizer(module: nn.Module, phase: Phase, settings: Settings, cut: Cut) -> str:
    """What trains a phase: adamw, adam, sgd, or lbfgs. `auto` becomes lbfgs where the phase can be solved, else adamw.

    lbfgs stands for "solved, not stepped through", whichever solver then does it (see `finetune.train.solve`); the name
    is in checkpoints, so it stays.

    Raises:
        UsageError: lbfgs or a gate is asked for, and the head cannot be solved.
    """
    if settings.optimizer not in ("lbfgs", "auto"):
        return settings.optimizer
    problem = _not_solvable(module, phase, settings) or _not_visible(module, phase, cut)
    if problem is None:
        return "lbfgs"
    if settings.gate and phase.index == 0:
        raise UsageError(
            "train.gate: what reaches the head of this network cannot be seen, so no head is solved",
            f"leave out {called('--tune', 'the gate')} (train.gate: none), or take another backbone",
        )
    if settings.optimizer == "auto":
        return "adamw"
    raise UsageError(*problem)


def require_solvable(module: nn.Module, phases: Sequence[Phase], settings: Settings) -> None:
    """Refuse a run before its first epoch that `lbfgs` could not finish, or whose gate would have nothing to compare.

    Raises:
        UsageError: lbfgs is asked for, and some phase is no convex problem; a gate, and the run does not begin with a
            solved head or ends with it.
    """
    if settings.gate:
        _require_candidates(module, phases, settings)
    for phase in phases if settings.optimizer == "lbfgs" else ():
        problem = _not_solvable(module, phase, settings)
        if problem is not None:
            raise UsageError(*problem)


def _require_candidates(module: nn.Module, phases: Sequence[Phase], settings: Settings) -> None:
    """Refuse a gate without a solved head, or without anything that is trained after it."""
    tuning, auto = called("--tune", "the gate"), setting("train.optimizer", "auto")
    remedy = f"leave out {tuning} (train.gate: none), or use {auto} with head: linear and cross_entropy"
    if settings.optimizer != "auto":
        raise UsageError(f"train.gate: nothing is solved with train.optimizer: {settings.optimizer}", remedy)
    if problem := _not_solvable(module, phases[0], settings):
        raise UsageError(f"train.gate: the head cannot be solved first ({problem[0]})", remedy)
    if len(phases) == 1:
        raise UsageError(
            "train.gate: nothing is trained after the solved head",
            f"let more learn later, as with {setting('model.unfreeze', {'head': 0, 'last:2': 1})}, or use "
            "train.gate: none",
        )


def _not_solvable(module: nn.Module, phase: Phase, settings: Settings) -> tuple[str, str] | None:
    """Why a phase is no convex problem, and what to do about it; None where it is one."""
    if linear_layer(module, phase.learning) is None:
        return (
            f"train.optimizer: lbfgs trains a linear head on a frozen backbone; {phase.title} lets more learn",
            f"use {setting('model.unfreeze', {'head': 0})} with head: linear, or optimizer: auto",
        )
    if settings.loss != "cross_entropy" or settings.label_smoothing:
        return "train.loss: lbfgs knows cross_entropy without label smoothing only", "use optimizer: adamw"
    return None


def _not_visible(module: nn.Module, phase: Phase, cut: Cut) -> tuple[str, str] | None:
    """Why the features below the head cannot be had as a table, and what to do about it; None where they can."""
    layer = linear_layer(module, phase.learning)
    if cut.no_prefix or layer is None or cut.bytes_per_image != 4 * layer.in_features:
        return "train.optimizer: lbfgs cannot see what reaches the head of this network", "use optimizer: adamw"
    return None


def solves_head(module: nn.Module, phases: Collection[Phase], settings: Settings) -> bool:
    """Whether all that a run does is to solve its head, as far as the plan tells."""
    asked = settings.optimizer in ("lbfgs", "auto")
    return asked and all(_not_solvable(module, phase, settings) is None for phase in phases)

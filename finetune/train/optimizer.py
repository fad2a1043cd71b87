"""The optimizer of one phase, its learning rates, and the loss."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from finetune.errors import UsageError
from finetune.model.freeze import owner
from finetune.model.plan import FreezePlan, Phase

FUSED = {"cpu", "cuda"}
"""Devices on which PyTorch updates all parameters of a group in one pass."""


def make_optimizer(
    module: nn.Module, plan: FreezePlan, phase: Phase, kind: str, *, weight_decay: float, momentum: float
) -> torch.optim.Optimizer:
    """A fresh optimizer over exactly the parameters that learn in `phase`.

    Parameters are grouped by learning rate and by whether weight decay applies: not to biases, norms and other
    vectors, nor to what the network itself exempts (`no_weight_decay`, timm's convention).

    Args:
        module: the network.
        plan: gives each layer group its rate.
        phase: what learns.
        kind: adamw, adam, sgd, or lbfgs; auto is adamw.
        weight_decay: for matrices and kernels.
        momentum: of SGD.
    """
    no_weight_decay: Any = getattr(module, "no_weight_decay", None)
    exempt = set(no_weight_decay()) if callable(no_weight_decay) else set()
    group_of = {name: group for group, names in plan.groups.items() for name in names}
    buckets: dict[tuple[float, float], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in module.named_parameters():
        if name in phase.learning:
            # decay pulls towards 0, which for a norm's scale or a bias is no simpler function, only another one
            decays = parameter.ndim > 1 and name not in exempt
            key = (plan.rates[group_of[name]], weight_decay if decays else 0.0)
            buckets.setdefault(key, []).append((name, parameter))
    groups: list[dict[str, Any]] = [
        {"params": named, "lr": rate, "weight_decay": decay, "peak_lr": rate}
        for (rate, decay), named in buckets.items()
    ]
    devices = {parameter.device.type for named in buckets.values() for _, parameter in named}
    fused = devices <= FUSED  # the same numbers, a few kernels instead of some for every tensor
    if kind == "lbfgs":  # the phase is solved, not stepped through: what a checkpoint holds of an optimizer is empty
        optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, lr=0.0)
    elif kind == "sgd":
        optimizer = torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=momentum > 0, fused=fused)
    elif kind == "adam":
        optimizer = torch.optim.Adam(groups, lr=0.0, fused=fused)
    else:
        optimizer = torch.optim.AdamW(groups, lr=0.0, fused=fused)
    return optimizer


def accept_any_phase(optimizer: torch.optim.Optimizer, module: nn.Module) -> torch.optim.Optimizer:
    """Make `optimizer.load_state_dict` take the state of any phase of the run.

    Each phase has parameter groups of its own; the state names its parameters, so the groups are rebuilt by name.
    """
    parameters = dict(module.named_parameters())

    def regroup(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        optimizer.param_groups.clear()
        optimizer.state.clear()
        for group in state["param_groups"]:
            settings = {key: value for key, value in group.items() if key not in ("params", "param_names")}
            optimizer.add_param_group({"params": [(n, parameters[n]) for n in group["param_names"]], **settings})

    optimizer.register_load_state_dict_pre_hook(regroup)
    return optimizer


def restore_state(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Take the moments out of a saved state, by parameter name; rates and decay stay those of today's recipe.

    Args:
        optimizer: fresh, its parameters named.
        saved: `state_dict()` of one of the same kind.
    """
    by_name = {
        name: saved["state"][number]
        for group in saved["param_groups"]
        for name, number in zip(group["param_names"], group["params"], strict=True)
        if number in saved["state"]
    }
    fresh = optimizer.state_dict()
    numbers = {
        name: number
        for group in fresh["param_groups"]
        for name, number in zip(group["param_names"], group["params"], strict=True)
    }
    state = {numbers[name]: value for name, value in by_name.items() if name in numbers}
    optimizer.load_state_dict({"state": state, "param_groups": fresh["param_groups"]})


def schedule(kind: str, step: int, steps: int, warmup: int) -> float:
    """The share of the peak learning rate at `step` of a phase of `steps`: a pure function, so nothing to resume.

    Args:
        kind: cosine (to 0; Loshchilov & Hutter 2017), constant, step (a tenth after each third), or one_cycle
            (from 1/25 up over the first 30 %, then cosine to 0; Smith & Topin 2018).
        step: 0 for the first step.
        steps: of the phase.
        warmup: steps of linear warm-up (one_cycle has its own).
    """
    if kind == "one_cycle":
        rise = max(1, round(0.3 * steps))
        if step < rise:
            return 1 / 25 + (1 - 1 / 25) * 0.5 * (1 - math.cos(math.pi * step / rise))
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - warmup)
    if kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if kind == "step":
        return float(0.1 ** math.floor(3 * progress))
    return 1.0


def set_rates(optimizer: torch.optim.Optimizer, share: float) -> float:
    """Give every parameter group `share` of its peak rate; returns the largest."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * share
    return max(float(group["lr"]) for group in optimizer.param_groups)


def make_loss(
    kind: str, *, label_smoothing: float = 0.0, class_weights: torch.Tensor | None = None, margin: float = 1.0
) -> nn.Module:
    """The training loss of each image, float32 [N], from logits [N, C] and labels, int64 [N].

    Args:
        kind: cross_entropy; or bce or hinge, which put each class against the rest.
        label_smoothing: share of the target given to all classes alike; of cross_entropy only.
        class_weights: float32 [C]; an image's loss is weighed by its own class.
        margin: of hinge.

    Raises:
        UsageError: no such loss, or one that knows no label smoothing.
    """
    if kind == "cross_entropy":
        return nn.CrossEntropyLoss(weight=class_weights, label_smoothing=label_smoothing, reduction="none")
    if kind not in ("bce", "hinge"):
        raise UsageError(f"train.loss: {kind!r} is not known", "choose cross_entropy, bce or hinge")
    if label_smoothing:
        raise UsageError(f"train.label_smoothing: belongs to cross_entropy, not to {kind}", "set it to 0")
    return OneVersusRest(kind, class_weights, margin)


class OneVersusRest(nn.Module):
    """A two-class problem for each class, their losses summed for each image.

    Args:
        kind: bce, the loss of logistic regression; or hinge, `max(0, margin - t s)` for a target t of 1 or -1 and a
            score s: with margin 1 that of a support vector machine, with margin 0 the perceptron criterion, whose
            gradient is Rosenblatt's rule: what is on the wrong side, or on the border, moves by its input.
        class_weights: float32 [C], or None.
        margin: of hinge.
    """

    def __init__(self, kind: str, class_weights: torch.Tensor | None, margin: float) -> None:
        super().__init__()
        self.kind, self.class_weights, self.margin = kind, class_weights, margin

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of each image, [N], from logits [N, C] and labels, int64 [N]."""
        own = nn.functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
        if self.kind == "bce":
            each = nn.functional.binary_cross_entropy_with_logits(logits, own, reduction="none")
        else:
            gap = self.margin - (2 * own - 1) * logits
            each = torch.where(gap >= 0, gap, 0.0)  # its gradient at 0 is 1, where that of ReLU and clamp is 0
        losses = each.sum(dim=1)
        return losses if self.class_weights is None else losses * self.class_weights[labels]


class Ema:
    """An exponential moving average of the weights that learn (Polyak averaging, as in timm and big_vision).

    The statistics of BatchNorm are averaged with them, as in timm: those of the live weights do not fit the average.

    Args:
        module: the network.
        decay: share of the old average kept at each step, e.g. 0.999.
        names: parameters to average.
    """

    def __init__(self, module: nn.Module, decay: float, names: frozenset[str]) -> None:
        self.decay = decay
        owners = {owner(name) for name in names}
        buffers = [(name, value) for name, value in module.named_buffers() if owner(name) in owners]
        learning = [(name, parameter) for name, parameter in module.named_parameters() if name in names]
        self.live: dict[str, torch.Tensor] = dict(learning + [pair for pair in buffers if pair[1].is_floating_point()])
        self.average = {name: parameter.detach().clone() for name, parameter in self.live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step number `step` (from 1); early steps count for more."""
        # the average begins at the first weights, which are no better than the last: they are soon forgotten
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.values()), list(self.live.values()), 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the live weights and the average; call it twice to come back."""
        for name, parameter in self.live.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name].copy_(kept)

"""One phase at work: the cut network, its optimizer, its averaged weights, and a single optimizer step."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from finetune.device import Compute
from finetune.distributed.ranks import this_rank
from finetune.errors import DivergedError, UsageError
from finetune.model.cut import Values, cut
from finetune.model.freeze import live_batchnorm, set_learning, set_modes
from finetune.model.plan import FreezePlan, Phase
from finetune.speed.api import optimize_cut, optimizer_step
from finetune.train.gradients import Gradients, Norms
from finetune.train.optimizer import Ema, make_loss, make_optimizer, restore_state, schedule, set_rates
from finetune.train.solvable import choose_optimizer
from finetune.train.state import Settings


class PhaseLearner:
    """One phase at work. Each is a fresh start, with an optimizer, a cut and an average of its own.

    Args:
        module: the network, on its device.
        plan: gives the layer groups their rates.
        phase: what learns.
        settings: how.
        compute: where.
        example: two images as the network gets them, by which it is cut at the freeze line.
    """

    def __init__(
        self,
        module: nn.Module,
        plan: FreezePlan,
        phase: Phase,
        settings: Settings,
        compute: Compute,
        example: torch.Tensor | None = None,
    ) -> None:
        self.module, self.phase, self.settings, self.compute = module, phase, settings, compute
        self.gradients = Gradients(module, plan.groups, phase.learning)
        set_learning(module, phase.learning)
        self.train_mode()
        self._refuse_single_images()
        self.cut = optimize_cut(cut(module, phase.learning, example=example), module, example, compute)
        self.kind = choose_optimizer(module, phase, settings, self.cut)
        self.solves_head = self.kind == "lbfgs"
        # a head that is solved chooses nothing by validation images (folds do that), so it may learn from them, too;
        # but only where no later phase follows, which would choose its best epoch by them
        self.learns_from_val = self.solves_head and settings.optimizer == "auto" and len(plan.phases) == 1
        self.optimizer = make_optimizer(
            module, plan, phase, self.kind, weight_decay=settings.weight_decay, momentum=settings.momentum
        )
        self._forward = self.cut.suffix if self.solves_head else this_rank().wrap(module, self.cut.suffix)
        self._update = optimizer_step(self.optimizer, compute)
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.ema = Ema(module, settings.ema, phase.learning) if settings.ema and not self.solves_head else None
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.precision == "fp16")
        weights = settings.class_weights
        self.loss = make_loss(
            settings.loss,
            label_smoothing=settings.label_smoothing,
            class_weights=None if weights is None else torch.tensor(weights, device=compute.device),
            margin=settings.margin,
        )

    def train_mode(self) -> None:
        """Training mode for what learns; what is frozen stays in eval mode."""
        set_modes(self.module, self.phase.learning, keep_statistics=self.settings.keep_statistics)

    def rate(self, epoch: int, step: int, steps: int) -> float:
        """Set the learning rates for a step of an epoch of `steps` steps; returns the largest."""
        s = self.settings
        done = (epoch - self.phase.start) * steps + step
        return set_rates(
            self.optimizer, schedule(s.schedule, done, self.phase.epochs * steps, round(s.warmup_epochs * steps))
        )

    def step(
        self, batches: Iterable[tuple[Values, torch.Tensor]], images: float, number: int, norms: Norms | None = None
    ) -> float:
        """One optimizer step.

        Args:
            batches: (values that cross the cut, each [N, ...]; labels, int64 [N]) to accumulate the gradient over.
            images: in all of them; each has one part in so many of the gradient.
            number: of the step in the run; the next after it has one more.
            norms: takes in the norms of the gradient before it is clipped; None where this step's are not asked for.

        Returns:
            The sum of the images' losses.

        Raises:
            DivergedError: the loss or the gradient is not finite, and the weights are as before; or the learning rate
                is more than a weight can hold.
        """
        for parameter in self._parameters:
            parameter.grad = None  # what `zero_grad` does, which takes a small network a thirtieth of its step
        total = 0.0
        for inputs, labels in batches:
            loss = self.loss(self.logits(inputs), labels)
            self.scaler.scale(loss).backward(torch.full_like(loss, 1 / images))  # an image's part in the gradient
            total += loss.sum().item()
        self.scaler.unscale_(self.optimizer)
        self._require_finite(total / images, self.gradients.measure(norms))
        if max(float(group["lr"]) for group in self.optimizer.param_groups) > torch.finfo(torch.float32).max:
            raise DivergedError("the step is larger than any number")  # a fused optimizer would take it silently
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self._update()
        if self.ema:
            self.ema.update(number + 1)
        return total

    def logits(self, values: Values) -> torch.Tensor:
        """Logits, float32 [N, classes], in training."""
        with self.compute.autocast():
            return self._forward(*values).float()

    def eval_logits(self, values: Values) -> torch.Tensor:
        """Logits, float32 [N, classes], in evaluation; the network must be in eval mode."""
        with self.compute.autocast():
            return self.cut.eval_suffix(*values).float()

    def _require_finite(self, loss: float, norm: float) -> None:
        """Clip the gradient, whose norm is `norm`; refuse to step on what is not finite."""
        # in fp16 an overflow is ordinary: the scaler skips that step and lowers its scale
        finite_gradient = math.isfinite(norm) or self.scaler.is_enabled()
        if not math.isfinite(loss) or not finite_gradient:
            raise DivergedError("the loss is not finite" if finite_gradient else "the gradient is not finite")
        if self.settings.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self.settings.clip_norm, torch.tensor(norm))

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the network has the averaged weights, if there are any."""
        if self.ema:
            self.ema.swap()
        try:
            yield
        finally:
            if self.ema:
                self.ema.swap()

    def state(self) -> dict[str, Any]:
        """The phase's entries of a checkpoint, on the CPU; save them before the next step."""
        return {
            "optimizer": self.kind,
            "optimizer_state_dict": on_cpu(self.optimizer.state_dict()),
            "phase": self.phase.index,
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else on_cpu(self.ema.average),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, which is of the same phase; what belongs to another optimizer or average begins anew."""
        if state.get("optimizer", self.kind) == self.kind:
            restore_state(self.optimizer, state["optimizer_state_dict"])
        self.scaler.load_state_dict(state["scaler"])
        average = self.ema.average if self.ema else {}
        for name in average.keys() & (state["ema"] or {}).keys():
            average[name].copy_(state["ema"][name])

    def _refuse_single_images(self) -> None:
        if self.settings.batch_size == 1 and (names := live_batchnorm(self.module)):
            raise UsageError(
                f"train.batch_size: {names[0]} cannot learn statistics from a batch of one image",
                "use a larger batch, or train.batchnorm: keep",
            )


def on_cpu(value: Any) -> Any:
    """The same nest of dicts and lists with every tensor on the CPU; what is there already is not copied."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: on_cpu(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [on_cpu(item) for item in value]
    return value

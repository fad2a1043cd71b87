"""The settings of a training run, and its position: how far it has come, which epoch is best, when to stop early."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finetune.data.augment import Augment
from finetune.errors import DivergedError
from finetune.evaluate.calibrate import fit_temperature
from finetune.evaluate.coverage import auto_threshold
from finetune.evaluate.metrics import probabilities
from finetune.model.network import Network

MEASURED_EVERY = 10
"""Steps of which the gradient of one is measured: enough for a mean over an epoch, and next to nothing in time."""


@dataclass(frozen=True)
class Settings:
    """How to learn; what learns, when and how fast is in the freeze plan.

    Attributes:
        batch_size: images per forward pass.
        accumulate: forward passes per optimizer step.
        optimizer: adamw, adam, sgd, lbfgs or auto.
        weight_decay: for matrices and kernels, not for biases and norms.
        momentum: of SGD.
        schedule: cosine, constant, step or one_cycle, over each phase.
        warmup_epochs: linear warm-up at the start of each phase; may be a fraction.
        loss: cross_entropy, bce or hinge; the last two put each class against the rest.
        margin: of hinge.
        label_smoothing: share of the target given to all classes alike.
        class_weights: weight of each class in the loss, or None.
        clip_norm: largest norm of the whole gradient, or None.
        ema: decay of the averaged weights, or None.
        keep_statistics: BatchNorm statistics of thawed layers stay as they are.
        early_stop: epochs without a better `select` after which a phase ends, or None.
        select: val_macro_f1, val_accuracy or val_loss: decides which epoch is best.
        gate: what is trained after a solved head is kept only where a paired test says that it is better.
        augment: makes the training views.
        seed: of data order, augmentation and dropout.
        every_epochs: save a checkpoint so often (the last epoch always is).
        every_minutes: and so often, at the next step, or None.
        every_steps: and so often, or None.
    """

    batch_size: int = 32
    accumulate: int = 1
    optimizer: str = "adamw"
    weight_decay: float = 0.05
    momentum: float = 0.9
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    loss: str = "cross_entropy"
    margin: float = 1.0
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    clip_norm: float | None = None
    ema: float | None = None
    keep_statistics: bool = True
    early_stop: int | None = None
    select: str = "val_macro_f1"
    gate: bool = False
    augment: Augment | None = None
    seed: int = 0
    every_epochs: int | None = 1
    every_minutes: float | None = 10.0
    every_steps: int | None = None

    @property
    def batchnorm(self) -> str:
        """The value of the recipe's `batchnorm`: keep or update."""
        return "keep" if self.keep_statistics else "update"


@dataclass
class Position:
    """How far a run has come; all of it plain numbers, so that any PyTorch opens it safely.

    Attributes:
        epoch: the epoch in progress (the number of epochs when the run is through).
        step: optimizer steps taken in the run.
        step_in_epoch: optimizer steps taken in the epoch in progress.
        loss_sum: sum of the training losses of the epoch's images so far.
        images: how many those are.
        seconds: spent on them.
        history: one record for each finished epoch.
        best: {"epoch": …, "value": …} of the best epoch so far, by `select`.
        temperature: of the best epoch, by validation; 1 before there is one.
        auto_threshold: confidence from which its answers are right in 95 % of the cases; None: none reaches that.
        stale: epochs since then (or since the last thaw).
        gradients: layer group → sum and number of the norms of its gradient measured in the epoch so far.
        ended_early: {"phase", "epochs", "planned"} of each phase that `early_stop` has ended.
        gate: what a paired test has said of the solved head and the tuned network, see `finetune.train.gate`.
    """

    epoch: int = 0
    step: int = 0
    step_in_epoch: int = 0
    loss_sum: float = 0.0
    images: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    temperature: float = 1.0
    auto_threshold: float | None = None
    stale: int = 0
    gradients: dict[str, list[float]] = field(default_factory=dict)
    ended_early: list[dict[str, int]] = field(default_factory=list)
    gate: dict[str, Any] | None = None

    @property
    def loss(self) -> float:
        """Mean training loss of the epoch so far; of the last finished one at an epoch's start."""
        if self.images:
            return self.loss_sum / self.images
        return float(self.history[-1]["train_loss"]) if self.history else math.nan

    @property
    def speed(self) -> float:
        """Images a second in the epoch so far."""
        return self.images / max(self.seconds, 1e-9)

    @property
    def norms(self) -> dict[str, list[float]] | None:
        """Where to add the next step's gradient norms; None on steps that are not sampled (most).

        It goes by the step of the epoch: the first is measured, so that every epoch has one.
        """
        return self.gradients if self.step_in_epoch % MEASURED_EVERY == 0 else None

    def advance(self, images: int, loss_sum: float) -> None:
        """Count a step that took in so many images, with the sum of their losses."""
        self.step += 1
        self.images += images
        self.loss_sum += loss_sum

    def diverged(self, problem: str, rate: float) -> DivergedError:
        """The error that says what went wrong in the step that would have been next, at a learning rate of `rate`."""
        last = f"{self.loss:.4g}" if math.isfinite(self.loss) else "none"
        return DivergedError(
            f"train.lr: {problem} at step {self.step} (epoch {self.epoch + 1}), lr {rate:.3g}; last finite loss {last}",
            "lower train.lr, set train.clip_norm: 1, or use train.precision: fp32; what was saved before is whole",
        )

    def update_best(self, record: Mapping[str, Any], select: str, thaws: bool) -> bool:
        """Whether the epoch of `record` is the best so far, which is noted; after a thaw, patience starts anew."""
        # strictly better, so that ties go to the earliest epoch and a resumed run chooses the same one
        value = float(record[select])
        finite = math.isfinite(record["val_loss"])  # else some answer was no number, and the rates say nothing
        improved = finite and better(select, value, self.best["value"] if self.best else None)
        self.stale = 0 if improved or thaws else self.stale + 1
        if improved:
            self.best = {"epoch": self.epoch, "value": value}
        return improved

    def calibrate(self, logits: np.ndarray, labels: np.ndarray, loss: str) -> None:
        """Fit the temperature and the threshold of the best epoch, on images that its weights were not fitted to.

        Args:
            logits: float [N, C].
            labels: int64 [N].
            loss: what the network learns by.
        """
        self.temperature = fit_temperature(logits, labels, loss)
        self.auto_threshold = auto_threshold(labels, probabilities(logits, loss, self.temperature))

    def stop_early(self, phase: int, start: int, stop: int) -> None:
        """End a phase that has stopped getting better, at the epoch where it stands: the next one begins sooner.

        Epochs keep the numbers that the plan gives them, so those that are left out are missing in the history; the
        learning rates and views of the next phase are then the same as without an early end.

        Args:
            phase: its number.
            start: its first epoch.
            stop: the epoch after its last.
        """
        if self.epoch < stop:
            self.ended_early.append({"phase": phase, "epochs": self.epoch - start, "planned": stop - start})
        self.epoch, self.stale = stop, 0

    def put_into(self, network: Network) -> None:
        """Let the network's probabilities be those of the best epoch."""
        network.temperature, network.auto_threshold = self.temperature, self.auto_threshold

    def require_finite(self) -> None:
        """Refuse a run in which no epoch gave finite answers.

        Raises:
            DivergedError: that is so.
        """
        if self.history and not any(math.isfinite(row["val_loss"]) for row in self.history):
            raise DivergedError(
                f"train.lr: no epoch gave finite answers on the validation images (steps: {self.step}, "
                f"lr {self.history[-1]['lr']:.3g})",
                "lower train.lr, or set train.clip_norm: 1",
            )

    def next_epoch(self) -> None:
        """Step over to the start of the next epoch."""
        self.epoch += 1
        self.step_in_epoch, self.loss_sum, self.images, self.seconds = 0, 0.0, 0, 0.0
        self.gradients = {}


def index_batches(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Cut an epoch's order, int64 [N], into batches; a last batch of one joins the one before.

    BatchNorm cannot learn from a single image, and dropping it would be a quiet loss.
    """
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if batch_size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [np.concatenate(batches[-2:])]
    return batches


def better(select: str, value: float, best: float | None) -> bool:
    """Whether `value` beats `best`: strictly, so that ties go to the earliest; NaN never does."""
    if math.isnan(value):
        return False
    if best is None:
        return True
    return value < best if select == "val_loss" else value > best


def step_batches(order: np.ndarray, batch_size: int, accumulate: int) -> list[list[np.ndarray]]:
    """An epoch's batches of indices, grouped by optimizer step."""
    batches = index_batches(order, batch_size)
    return [batches[start : start + accumulate] for start in range(0, len(batches), accumulate)]


def patience_note(early_stop: int | None, select: str, phases: int) -> str:
    """A sentence on what `early_stop` will do, for the plan; empty where it is off."""
    if early_stop is None:
        return ""
    after = f"{early_stop} epoch{'s' if early_stop > 1 else ''} without a better {select}"
    rest = "; the thaws that are planned still come" if phases > 1 else ""
    return f"early_stop: a phase ends after {after}{rest}"


def early_ends(position: Position, settings: Settings) -> list[str]:
    """Which phases `early_stop` has ended and why, one line each."""
    patience = settings.early_stop or 0
    why = f"no better {settings.select} for {patience} epoch{'s' if patience > 1 else ''} (early_stop)"
    return [
        f"phase {end['phase']} ended after {end['epochs']} of {end['planned']} epochs: {why}"
        for end in position.ended_early
    ]

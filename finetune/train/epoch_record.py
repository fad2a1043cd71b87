"""The record of a finished epoch: a row of `history.csv`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune.evaluate.metrics import epoch_metrics
from finetune.train.gradients import gradient_columns
from finetune.train.phase import PhaseLearner
from finetune.train.state import Position


def epoch_record(
    position: Position,
    learner: PhaseLearner,
    groups: Mapping[str, Sequence[str]],
    logits: np.ndarray,
    labels: np.ndarray,
) -> dict[str, Any]:
    """What an epoch came to.

    Args:
        position: at its end.
        learner: of its phase.
        groups: layer group → tensor names.
        logits: float32 [N, classes], of the validation images.
        labels: int64 [N].
    """
    return {
        "epoch": position.epoch,
        "phase": learner.phase.index,
        "lr": max(float(group["lr"]) for group in learner.optimizer.param_groups),
        "train_loss": position.loss,
        **epoch_metrics(labels, logits, learner.settings.loss),
        "seconds": position.seconds,
        "images_per_second": position.speed,
        **gradient_columns(groups, position.gradients),
    }

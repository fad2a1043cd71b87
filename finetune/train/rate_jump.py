"""Warns when a changed recipe makes the learning rate of a resumed run jump."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune.train.state import step_batches
from finetune.train.trainer import Trainer

FACTOR = 2.5
"""From here on it is a jump; from one step of a warm-up to the next the rate doubles at most."""


def rate_jump(trainer: Trainer, checkpoint: Mapping[str, Any]) -> str:
    """A line if the rate of the next step is far from that of the last one within a phase, else nothing.

    More epochs, for example, stretch the schedule: at the end of a cosine the rate was almost 0, and now it is high
    again.

    Args:
        trainer: restored from `checkpoint`.
        checkpoint: of the run as it was before the change.
    """
    learner, position, settings = trainer.learner, trainer.position, trainer.settings
    last_rates = [float(group["lr"]) for group in checkpoint["optimizer_state_dict"].get("param_groups", [])]
    if learner is None or learner.solves_head or not last_rates or learner.phase.index != checkpoint["phase"]:
        return ""
    steps = len(step_batches(np.arange(len(trainer.train)), settings.batch_size, settings.accumulate))
    before, after = max(last_rates), learner.rate(position.epoch, position.step_in_epoch, steps)
    if max(before, after) <= FACTOR * min(before, after):
        return ""
    stretched = f"the {settings.schedule} schedule now runs over {learner.phase.epochs} epochs"
    return f"learning rate: {before:.2g} at the last step, {after:.2g} at the next: {stretched}"

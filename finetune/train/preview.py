"""What the feature cache of a run will hold, before any of it is computed."""

from __future__ import annotations

from collections.abc import Iterator

from finetune.train.cache_decision import PhaseDecision
from finetune.train.trainer import Trainer


def preview(trainer: Trainer) -> Iterator[PhaseDecision]:
    """The decision of each phase, one after the other; no image is read and nothing learns.

    Args:
        trainer: not to be trained afterwards: each phase leaves the network in its own modes.
    """
    for phase in trainer.plan.phases:
        yield trainer.prepare(phase)[1]

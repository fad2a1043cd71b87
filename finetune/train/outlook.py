"""What a run will keep of the work on its frozen layers, before any of it is done."""

from __future__ import annotations

from collections.abc import Iterator

from finetune.device import own_randomness
from finetune.train.budget import Figures
from finetune.train.inputs import PhaseInputs
from finetune.train.phase import PhaseLearner
from finetune.train.trainer import Trainer


def outlook(trainer: Trainer) -> Iterator[PhaseInputs]:
    """The inputs of each phase, one after the other; no image is read and nothing learns.

    Args:
        trainer: not to be trained afterwards: each phase leaves the network in its own modes.
    """
    example = trainer.train.preprocess.example().to(trainer.compute.device)
    for phase in trainer.plan.phases:
        with own_randomness(), trainer.compute.own_threads():
            learner = PhaseLearner(trainer.module, trainer.plan, phase, trainer.settings, trainer.compute, example)
            last = phase.stop >= trainer.plan.epochs
            inputs = PhaseInputs(
                trainer.network, learner, trainer.train, trainer.val, trainer.cache, Figures(), last=last
            )
        yield inputs

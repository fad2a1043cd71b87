"""What the ranks of a run do together in training, besides the gradients: evaluate, solve a head, fill the cache."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import nn

from finetune.distributed.ranks import here
from finetune.evaluate.loop import infer
from finetune.speed.api import constant_weights
from finetune.train.convex import linear_layer, solve
from finetune.train.phase import PhaseLearner
from finetune.train.phase_data import PhaseData


def fill_cache(data: PhaseData, epoch: int | None = None) -> None:
    """One rank of each machine fills the table that an epoch (or validation) asks for; the others find it filed.

    A process without others fills it when it is asked for.
    """
    if not here().alone:
        with here().one_first():
            data.prepare(epoch)


def validation_logits(
    module: nn.Module, learner: PhaseLearner, data: PhaseData, classes: int, tick: Callable[..., None]
) -> np.ndarray:
    """Logits of all validation images by the weights as they are, float32 [N, classes], on every rank.

    Each rank runs its own run of neighbours; none is counted twice.
    """
    module.eval()
    ranks, images = here(), len(data.val.source.images)
    ranks.copy_from_main(list(module.buffers()))  # statistics of BatchNorm differ between ranks where they learn
    fill_cache(data)
    with constant_weights(learner.cut.judge):
        own = infer(learner.judge, data.validation(ranks.shard(images)), tick)
    return ranks.gather(own, classes, images)


def solve_head(
    module: nn.Module,
    learner: PhaseLearner,
    data: PhaseData,
    labels: np.ndarray,
    val_labels: np.ndarray,
    say: Callable[[str], None],
) -> float:
    """Put the optimum into the head, on every rank; rank 0 finds it. Returns the mean training loss.

    Args:
        module: the network.
        learner: of a phase that is solved.
        data: of that phase.
        labels: of the training images, int64 [N].
        val_labels: of the validation images, int64 [M].
        say: told what was found.
    """
    loss = 0.0
    if here().main:
        features, places, val_features = data.everything()
        layer, settings = linear_layer(module, learner.phase.learning), learner.settings
        assert layer is not None
        both = settings.optimizer == "auto"
        found = solve(features, labels[places], val_features, val_labels, settings.class_weights, discriminant=both)
        say(found.summary)
        loss = found.put_into(layer, features, labels[places])
    here().copy_from_main(list(module.parameters()))
    return float(here().send(loss))

"""What the ranks of a run do together in training, besides the gradients: evaluate, solve a head, fill the cache."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from finetune.distributed.ranks import here
from finetune.evaluate.loop import infer
from finetune.model.network import Network
from finetune.speed.api import constant_weights
from finetune.train.out_of_fold import OutOfFold, entries, of_checkpoint
from finetune.train.phase import PhaseLearner
from finetune.train.phase_data import PhaseData
from finetune.train.solve import solve_phase


def fill_cache(data: PhaseData, epoch: int | None = None) -> None:
    """One rank of each machine fills the table that an epoch (or validation) asks for; the others find it filed.

    A process without others fills it when it is asked for.
    """
    if not here().alone:
        with here().one_first():
            data.prepare(epoch)


def validate(
    network: Network,
    learner: PhaseLearner,
    data: PhaseData,
    out_of_fold: OutOfFold | None,
    tick: Callable[..., None],
) -> tuple[np.ndarray, np.ndarray]:
    """Logits, float32 [N, classes], and labels, int64 [N], to evaluate the weights as they are; on every rank.

    Those of all validation images, of which each rank runs its own run of neighbours; none is counted twice. Where a
    head was solved from them, too, the answers out of fold of training and validation images.
    """
    val = data.val.source.images
    if out_of_fold is not None:
        return out_of_fold.logits, np.concatenate([data.train.source.images.labels, val.labels])
    module = network.module.eval()
    ranks, images = here(), len(val)
    ranks.copy_from_main(list(module.buffers()))  # statistics of BatchNorm differ between ranks where they learn
    fill_cache(data)
    with constant_weights(learner.cut.eval_suffix):
        own = infer(learner.eval_logits, data.validation(ranks.shard(images)), tick)
    return ranks.gather(own, len(network.classes), images), val.labels


def solve_together(
    network: Network, learner: PhaseLearner, data: PhaseData, say: Callable[[str], None], tick: Callable[[], None]
) -> tuple[float, int, OutOfFold | None]:
    """Put the optimum into the head, on every rank; rank 0 finds it.

    Args:
        network: as the phase found it.
        learner: of a phase that is solved.
        data: of that phase.
        say: told what was found.
        tick: called now and then, where no other rank waits; may raise to stop.

    Returns:
        The mean training loss, the number of images that it is of, and the answers out of fold (see `SolvedPhase`).
    """
    loss, images, answers = 0.0, 0, None
    if here().main:
        found = solve_phase(network, learner, data, tick if here().alone else lambda: None)
        say("\n".join(found.said))
        loss, images = found.train_loss, found.images
        answers = entries(found.out_of_fold)
    here().copy_from_main(list(network.module.parameters()))
    loss, images, answers = here().send((loss, images, answers))
    return float(loss), int(images), of_checkpoint(answers or {})

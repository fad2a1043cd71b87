"""Work that the ranks share in training, besides the gradients: evaluating, solving a head, filling the cache."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from finetune.data.batches import AnyImages
from finetune.device import Compute
from finetune.distributed.ranks import this_rank
from finetune.evaluate.evaluation import BATCH, forward_of
from finetune.evaluate.loop import infer
from finetune.model.network import Network
from finetune.model.stages import read_last
from finetune.speed.api import constant_weights
from finetune.train.cached_inputs import CachedInputs
from finetune.train.out_of_fold import (
    OutOfFold,
    checkpoint_entries,
    from_checkpoint,
    spare_entries,
    spare_from_checkpoint,
)
from finetune.train.phase import PhaseLearner
from finetune.train.phase_data import PhaseData
from finetune.train.solve import SolvedPhase, solve_phase
from finetune.train.state import index_batches


def fill_cache(inputs: CachedInputs, view: int = 0) -> None:
    """The ranks of each machine fill the table of a view, each its part; one puts them together, the others find it.

    A process without others fills it when it is asked for.
    """
    ranks = this_rank()
    if ranks.alone:
        return
    if ranks.local_world > 1:
        inputs.fill_part(view, ranks.local, ranks.local_world)
        ranks.barrier()
    with ranks.local_main_first():
        inputs.fill(view)


def logits_of(
    network: Network, images: AnyImages, compute: Compute, tick: Callable[[int], None] | None = None
) -> np.ndarray | None:
    """Logits of images by the weights of rank 0, float32 [N, classes], each rank its share of the images.

    None in a process without others. All ranks must come here, and all get the logits.
    """
    ranks = this_rank()
    if ranks.alone:
        return None
    if ranks.broadcast(network.features) == "last":
        read_last(network)  # rank 0 may have given its head the plain shape when it published the network
    ranks.copy_from_main([*network.module.parameters(), *network.module.buffers()])
    own_images = ranks.shard(len(images))
    with compute.own_threads():
        forward = forward_of(network, compute, len(own_images))
        rows = infer(forward, images.batches(index_batches(own_images, BATCH)), tick)
    return ranks.gather(rows, len(network.classes), len(images))


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
    ranks, images = this_rank(), len(val)
    # each rank's BatchNorm has seen its own images: the statistics of rank 0 are those that are saved
    ranks.copy_from_main(list(module.buffers()))
    fill_cache(data.val)
    with constant_weights(learner.cut.eval_suffix):
        own_logits = infer(learner.eval_logits, data.val_batches(ranks.shard(images)), tick)
    return ranks.gather(own_logits, len(network.classes), images), val.labels


def solve_on_main(
    network: Network, learner: PhaseLearner, data: PhaseData, say: Callable[[str], None], tick: Callable[[], None]
) -> SolvedPhase:
    """Put the optimum into the head, on every rank; rank 0 finds it, and says what it found.

    Args:
        network: as the phase found it.
        learner: of a phase that is solved.
        data: of that phase.
        say: told what was found.
        tick: called now and then, where no other rank waits; may raise to stop.
    """
    for view in range(data.train.source.views):
        fill_cache(data.train, view)
    fill_cache(data.val)
    loss, images, answers, spare = 0.0, 0, None, None
    if this_rank().main:
        solved = solve_phase(network, learner, data, tick if this_rank().alone else lambda: None)
        say("\n".join(solved.summary))
        loss, images = solved.train_loss, solved.images
        answers, spare = checkpoint_entries(solved.out_of_fold), spare_entries(solved.spare)
    this_rank().copy_from_main(list(network.module.parameters()))
    loss, images, answers, spare = this_rank().broadcast((loss, images, answers, spare))
    return SolvedPhase(float(loss), int(images), from_checkpoint(answers or {}), spare_from_checkpoint(spare or {}))

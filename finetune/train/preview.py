"""A preview of a run: its steps and its feature cache, before any of it is computed."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from finetune.model.plan import HEAD
from finetune.runs.time_left import EVALUATING, FEATURES, TRAINING, rounded
from finetune.train.cache_decision import PhaseDecision
from finetune.train.solvable import solves_head
from finetune.train.trainer import Trainer

TUNING_PASS = 0.5
"""A step of the last two layer groups, an image, as a share of a forward pass of the whole network: a rough figure."""

REPORT_SECONDS = 5.0
"""What figures, plots and the page take, with all else that no image is read for."""

BACKWARD = 3.0
"""Forward passes that a step of training takes where all layers learn: the gradients cost twice the answer."""


def preview(trainer: Trainer) -> Iterator[PhaseDecision]:
    """The decision of each phase, one after the other; no image is read and nothing learns.

    Args:
        trainer: not to be trained afterwards: each phase leaves the network in its own modes.
    """
    for phase in trainer.plan.phases:
        yield trainer.prepare(phase)[1]


def expected_seconds(trainer: Trainer, evaluated: int) -> dict[str, float]:
    """Stage of the run → seconds, in order; rough, until the pace of each is seen.

    Of an epoch, the part that learns is counted by its parameters: what is frozen is computed once, beforehand.

    Args:
        trainer: about to train.
        evaluated: how many images the network is evaluated on in the end.
    """
    per_image, images = _seconds_per_image(trainer), len(trainer.train) + len(trainer.val)
    work = passes(trainer)
    twice = 2 if 0.0 in work and any(work) else 1  # before the head is solved, and before the groups above are tuned
    return {
        FEATURES: per_image * images * twice,
        TRAINING: per_image * len(trainer.train) * sum(work),
        EVALUATING: per_image * evaluated,
        "writing the report": REPORT_SECONDS,
    }


def passes(trainer: Trainer) -> list[float]:
    """How many forward passes over the training images each epoch takes as long as; none where a head is solved."""
    sizes = trainer.network.parameters
    total = max(1, sum(sizes.values()))
    work: list[float] = []
    for phase in trainer.plan.phases:
        if solves_head(trainer.network.module, [phase], trainer.settings):
            one = 0.0
        elif trainer.settings.gate:
            one = TUNING_PASS
        else:
            one = BACKWARD * sum(sizes[name] for name in phase.learning) / total
        work += [one] * phase.epochs
    return work


def outline(trainer: Trainer, seconds: float) -> list[str]:
    """The network, what of it learns, and where a head is solved about how long it all takes; a line each."""
    network, plan = trainer.network, trainer.plan
    height, width = network.preprocess.size
    total = sum(network.parameters.values())
    named = f"{network.architecture}, {total / 1e6:.1f} million parameters" if total >= 1e5 else network.architecture
    lines = [f"network: {named}; images of {height}x{width} pixels"]
    only_head = solves_head(network.module, plan.phases, trainer.settings)
    if not only_head and not trainer.settings.gate:
        return lines
    reads = {"stages": "the last stages and the last output"}.get(network.features, "the last output")
    if only_head:
        lines.append(f"learns: the head only, solved exactly; it reads {reads}; all else stays frozen")
    else:
        epochs = plan.epochs - plan.phases[1].start
        groups = [group for group in plan.as_unfreeze() if group != HEAD]
        lines.append(f"learns: first the head, solved exactly; it reads {reads}")
        lines.append(
            f"then {', '.join(groups)} and the head for {epochs} epochs, kept only if better on validation images"
        )
    lines.append(f"time: about {rounded(seconds)} to the report")
    return lines


def _seconds_per_image(trainer: Trainer) -> float:
    """Time of a forward pass, an image, on this machine as it is now."""
    images = trainer.train.preprocess.example().to(trainer.compute.device)
    seconds = []
    with torch.inference_mode(), trainer.compute.autocast(), trainer.compute.own_threads():
        for _ in range(2):  # the first pass also sets things up
            start = time.perf_counter()
            trainer.module.eval()(images)
            seconds.append(time.perf_counter() - start)
    return min(seconds) / len(images)

"""A preview of a run: its steps and its feature cache, before any of it is computed."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from finetune.model.plan import HEAD
from finetune.train.cache_decision import PhaseDecision
from finetune.train.solvable import solves_head
from finetune.train.trainer import Trainer

TUNING_PASS = 0.5
"""A step of the last two layer groups, an image, as a share of a forward pass of the whole network: a rough figure."""


def preview(trainer: Trainer) -> Iterator[PhaseDecision]:
    """The decision of each phase, one after the other; no image is read and nothing learns.

    Args:
        trainer: not to be trained afterwards: each phase leaves the network in its own modes.
    """
    for phase in trainer.plan.phases:
        yield trainer.prepare(phase)[1]


def outline(trainer: Trainer) -> list[str]:
    """The network, what of it learns, and where a head is solved about how long it all takes; a line each."""
    network, plan = trainer.network, trainer.plan
    height, width = network.preprocess.size
    total = sum(network.parameters.values())
    named = f"{network.architecture}, {total / 1e6:.1f} million parameters" if total >= 1e5 else network.architecture
    lines = [f"network: {named}; images of {height}x{width} pixels"]
    only_head = solves_head(network.module, plan.phases, trainer.settings)
    if not only_head and not trainer.settings.gate:
        return lines
    passes = len(trainer.train) + len(trainer.val)
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
        passes = round(2 * passes + TUNING_PASS * epochs * len(trainer.train))
    lines.append(f"time: about {_round(_seconds_per_image(trainer) * passes + 5)} to the report")
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


def _round(seconds: float) -> str:
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} s"
    return f"{round(seconds / 60)} min"

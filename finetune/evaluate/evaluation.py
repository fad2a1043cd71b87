"""Evaluating a network on a set of images, in full precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from finetune.data.batches import AnyImages
from finetune.device import Compute
from finetune.evaluate.head_inputs import keep_head_inputs
from finetune.evaluate.loop import infer
from finetune.evaluate.metrics import Metrics, compute_metrics, probabilities
from finetune.model.network import Network
from finetune.speed.api import optimize_for_inference

BATCH = 32
"""Images per forward pass where no gradient is kept; more gains nothing on a CPU."""

MANY = 200
"""Images from which on tracing a network, some tenths of a second, is less than what folding saves."""

KEPT = 2000
"""Images up to which the vectors that the network has made of them are kept: 8 MB for each thousand numbers."""

OUT_OF_FOLD = "out_of_fold"
"""The split of images that are answered by a head that has not learned from them, fold by fold."""


@dataclass(frozen=True)
class Evaluation:
    """Predictions on a set of images, and what they are worth.

    Attributes:
        paths: of the images, relative to the data folder.
        labels: int64 [N], places in the network's classes.
        probabilities: float64 [N, classes].
        metrics: of these.
        cautions: what qualifies them, one sentence each.
        vectors: float32 [N, features], what entered the head, where they are few and that was at hand.
    """

    paths: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    metrics: Metrics
    cautions: Sequence[str] = ()
    vectors: np.ndarray | None = None

    def __repr__(self) -> str:
        return f"Evaluation({self.metrics!r}{f', cautions: {len(self.cautions)}' if self.cautions else ''})"


def forward_of(network: Network, compute: Compute, images: int = 0) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network in eval mode, from pixels, uint8 [N, H, W, C], to logits, float32 [N, classes].

    Args:
        network: as its weights are now.
        compute: where.
        images: about how many there are; for many the network is made faster first, with equal answers to rounding.
    """
    module = compute.place(network.module).eval()
    worth_tracing = images >= MANY and network.convolutional  # what folding saves is in convolutions
    example = network.preprocess.example().to(compute.device) if worth_tracing else None
    run = optimize_for_inference(module, example, compute)

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        batch = network.preprocess.normalise(pixels.to(compute.device, non_blocking=True))
        with compute.autocast():
            return run(batch).float()

    return forward


def evaluate_images(
    network: Network,
    images: AnyImages,
    compute: Compute,
    *,
    loss: str = "cross_entropy",
    tick: Callable[[int], None] | None = None,
    logits: np.ndarray | None = None,
) -> Evaluation:
    """Predict every image once and measure.

    Args:
        network: with classes in the order of the images' labels.
        images: labelled.
        compute: where; evaluating for a report is in fp32.
        loss: what the network was trained with; decides how logits become probabilities.
        tick: told the number of images done after each batch; may raise.
        logits: float32 [N, classes], where the network's answers are known already.

    Raises:
        DataError: an image is gone or has changed since the scan.
    """
    vectors: np.ndarray | None = None
    if logits is None:
        batches = [np.arange(start, min(start + BATCH, len(images))) for start in range(0, len(images), BATCH)]
        run = forward_of(network, compute, len(images))
        keep = len(images) <= KEPT and not network.more_heads
        with compute.own_threads(), keep_head_inputs(network, keep) as head_inputs:
            logits = infer(run, images.batches(batches), tick)
        if sum(map(len, head_inputs)) == len(images):
            vectors = np.concatenate(head_inputs)
    return replace(evaluate_logits(network, images.names, images.labels, logits, loss=loss), vectors=vectors)


def evaluate_logits(
    network: Network, paths: list[str], labels: np.ndarray, logits: np.ndarray, *, loss: str = "cross_entropy"
) -> Evaluation:
    """Measure answers that are known already.

    Args:
        network: whose classes and temperature they are.
        paths: of the images.
        labels: int64 [N].
        logits: float32 [N, classes].
        loss: what the network was trained with.
    """
    class_probabilities = probabilities(logits, loss, network.temperature)
    return Evaluation(paths, labels, class_probabilities, compute_metrics(labels, class_probabilities, network.classes))

"""The map of the evaluated images for the report: their vectors, and a small picture of each."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from finetune.data.batches import AnyImages
from finetune.device import Compute
from finetune.evaluate.encode import make_encoder
from finetune.evaluate.evaluation import BATCH, Evaluation
from finetune.evaluate.loop import infer
from finetune.evaluate.metrics import predict
from finetune.model.network import Network
from finetune.report.embedding_map import embedding_map
from finetune.report.thumbnails import thumbnail

MOST = 160
"""Images on the map: each takes 3 kB of the page, and goes through the network once more if its vector is gone."""

LEAST = 3
"""Fewer points are no map."""


def draw_map(network: Network, images: AnyImages, evaluation: Evaluation, compute: Compute) -> Markup | None:
    """The map of some of the evaluated images; None where there are too few.

    Args:
        network: with its classes.
        images: that were evaluated.
        evaluation: of them.
        compute: where.
    """
    answers = predict(evaluation.probabilities)
    places = chosen(answers != evaluation.labels, MOST)
    if len(places) < LEAST:
        return None
    known = evaluation.vectors
    vectors = vectors_of(network, images, places, compute) if known is None else known[places]
    pictures = thumbnails_of(images, places)
    return embedding_map(
        vectors,
        [int(evaluation.labels[place]) for place in places],
        [int(answers[place]) for place in places],
        [evaluation.paths[place] for place in places],
        network.classes,
        {row: pictures[place] for row, place in enumerate(places)},
    )


def vectors_of(network: Network, images: AnyImages, places: Sequence[int], compute: Compute) -> np.ndarray:
    """Features of the images at these positions, float32 [N, features], computed by the network."""
    encoder = make_encoder(network, compute)
    batches = [np.array(places[start : start + BATCH]) for start in range(0, len(places), BATCH)]
    with compute.own_threads():
        return encoder.parts(infer(encoder.forward, images.batches(batches)))[0]


def chosen(wrong: np.ndarray, most: int) -> list[int]:
    """Which images are on the map: up to half are mistakes, the others evenly out of the rest; in order.

    Args:
        wrong: bool [N].
        most: how many.
    """
    mistakes, right = np.flatnonzero(wrong), np.flatnonzero(~wrong)
    mistakes = mistakes[np.unique(np.linspace(0, len(mistakes) - 1, min(len(mistakes), most // 2)).astype(int))]
    rest = min(len(right), most - len(mistakes))
    right = right[np.unique(np.linspace(0, len(right) - 1, rest).astype(int))]
    return sorted([*mistakes.tolist(), *right.tolist()])


def thumbnails_of(images: AnyImages, places: Sequence[int]) -> dict[int, str]:
    """Small pictures of the images at these places, as the network sees them, as `data:` addresses."""
    batches = [places[start : start + BATCH] for start in range(0, len(places), BATCH)]
    with contextlib.closing(images.batches(batches)) as shown:
        return {
            place: thumbnail(picture.numpy())
            for indices, pixels in shown
            for place, picture in zip(indices.tolist(), pixels, strict=True)
        }

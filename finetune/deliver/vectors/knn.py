"""Classes by neighbours: an image is what the images of a store that lie nearest to it are.

A store takes in new images, and even new classes, without any training. The vote is that of Wu et al. 2018,
"Unsupervised Feature Learning via Non-Parametric Instance Discrimination": neighbour i counts exp((1 - dᵢ) / 0.07).
Where the store knows splits, only training images vote; and nobody votes for itself: an image of the store that lies
at no distance is the query, or a copy of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from finetune.deliver.vectors.source import Source, layer_in
from finetune.deliver.vectors.store import Neighbour, VectorStore
from finetune.deliver.vectors.where import Condition
from finetune.device import Compute
from finetune.errors import ArtefactError
from finetune.evaluate.encode import make_encoder
from finetune.evaluate.loop import infer
from finetune.model.network import Network

NEIGHBOURS = 10
TEMPERATURE = 0.07
SAME = 1e-6
"""Cosine distance up to which two vectors are of the same image, computed twice."""


class NeighbourVote:
    """Probabilities of classes by the vote of the nearest images of a store.

    Args:
        network: the one that made the store's vectors.
        path: of the store.
        compute: where.
        k: how many neighbours vote.

    Attributes:
        classes: of the images that may vote, in the network's order, new ones after that by name.

    Raises:
        UsageError: no such store. ArtefactError: it is of another network, or none of its images has a class.
    """

    def __init__(self, network: Network, path: Path, compute: Compute, k: int = NEIGHBOURS) -> None:
        self.store, self.k = VectorStore(path), k
        self._encoder = make_encoder(network, compute, layer_in(network, self.store))
        self.store.require(
            Source("", network, True).identity(self._encoder),
            "embed the images with this network, into another store: `finetune embed` or `ft.embed`",
        )
        voters: list[Condition] = [Condition("class", "!=", "")]
        known = {row["split"] for batch in self.store.table.read(["split"], voters) for row in batch.to_pylist()}
        self._where = [*voters, *([Condition("split", "=", "train")] if "train" in known else [])]
        labels = {row["class"] for batch in self.store.table.read(["class"], self._where) for row in batch.to_pylist()}
        if not labels:
            raise ArtefactError(f"{path}: no image of the store has a class", "embed a folder with class folders")
        own = [name for name in network.classes if name in labels]
        self.classes = own + sorted(labels - set(own))

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """The probabilities, float64 [N, classes], for pixels uint8 [N, H, W, C]."""
        return np.stack([self._vote(near) for near in self.near(pixels)])

    def near(self, pixels: np.ndarray) -> list[list[Neighbour]]:
        """The images that vote, nearest first, for each of pixels uint8 [N, H, W, C]."""
        rows = infer(self._encoder.forward, [(np.arange(len(pixels)), torch.from_numpy(pixels))])
        neighbours = self.store.search(self._encoder.parts(rows)[0], self.k + 8, self._where)
        return [[one for one in near if one.distance > SAME][: self.k] for near in neighbours]

    def _vote(self, near: Sequence[Neighbour]) -> np.ndarray:
        votes = np.zeros(len(self.classes))
        for one in near:
            votes[self.classes.index(str(one.label))] += np.exp((near[0].distance - one.distance) / TEMPERATURE)
        return votes / votes.sum() if near else votes + 1 / len(votes)

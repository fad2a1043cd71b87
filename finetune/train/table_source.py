"""One set of images on its way through the frozen layers: everything that a cached table's content depends on.

The key of the feature cache is made here (`TableSource.key`). Whoever adds something that changes features (a
preprocessing step, a faster kernel, a new option of the network) must make it part of the key: a table that is found is
used without another look, so what the key forgets is a silent fault.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch

from finetune.data.augment import Augment
from finetune.data.batches import AnyImages
from finetune.device import Compute, versions
from finetune.model.cut import Cut, Values
from finetune.model.freeze import owner
from finetune.model.network import Network
from finetune.model.stages import feature_groups
from finetune.model.weights import tensors_sha256
from finetune.speed.api import cache_key
from finetune.train.phase import PhaseLearner
from finetune.train.store import Layout

BLOCK = 32
"""Images that go through the prefix together. Part of the key: another size gives other last bits."""


@dataclass(frozen=True)
class TableSource:
    """Images, the frozen layers they go through, and how.

    Attributes:
        images: the set.
        cut: of the phase: its prefix is what does not learn.
        compute: where, and in what precision.
        identity: hash of the frozen part of the network, see `identity_of`.
        augment: makes the views; None for the plain pictures.
        seed: of the views.
        views: how many different ones the phase asks for, over all its epochs.
    """

    images: AnyImages
    cut: Cut
    compute: Compute
    identity: str
    augment: Augment | None = None
    seed: int = 0
    views: int = 1

    def values(self, pixels: torch.Tensor) -> Values:
        """The values that cross the freeze line, of pixels uint8 [N, H, W, C]."""
        images = self.images.preprocess.normalise(pixels.to(self.compute.device, non_blocking=True))
        if self.cut.no_prefix:
            return (images,)
        with torch.no_grad(), self.compute.autocast():
            return self.cut.prefix(images)

    def layout(self) -> Layout | None:
        """How a row of the table would lie in memory, found by a grey picture; None if it cannot be a table."""
        with torch.no_grad(), self.compute.autocast():
            return Layout.of(self.cut.prefix(self.images.preprocess.example().to(self.compute.device)))

    def key(self, view: int) -> str:
        """The name of a view's table: a hash over everything that its content depends on."""
        random = self.augment is not None and self.augment.random
        content = {
            "identity": self.identity,
            "cut": self.cut.where,
            "preprocess": self.images.preprocess.as_dict(),
            "augment": [self.augment.as_dict(), self.seed, view] if self.augment is not None and random else None,
            "block": BLOCK,
            "speed": cache_key(self.compute),
            "device": self.compute.device.type,
            "precision": self.compute.precision,
            "channels_last": self.compute.channels_last,
            "threads": torch.get_num_threads(),  # sums are split among threads: the last bits differ
            "versions": versions(),
            "images": self.images.hashes,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def identity_of(network: Network, learner: PhaseLearner) -> str:
    """A hash over the network as far as it is frozen: its architecture, and every tensor that stays as it is.

    A buffer may change where the module that owns it learns.
    """
    learning = learner.phase.learning
    owners = {owner(name) for name in learning}
    state, parameters = network.module.state_dict(), frozenset(network.parameters)
    frozen = {
        name: value
        for name, value in state.items()
        if name not in learning and (name in parameters or owner(name) not in owners)
    }
    facts: list[Any] = [network.architecture, network.options, learner.cut.where, tensors_sha256(frozen)]
    facts += [feature_groups(network)] if network.features == "stages" else []
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()

"""The inputs of a phase: what its learning part is fed with, cached or not."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from finetune.data.batches import AnyImages
from finetune.evaluate.loop import infer
from finetune.model.cut import Values
from finetune.model.freeze import owner
from finetune.model.network import Network
from finetune.model.weights import tensors_sha256
from finetune.train.budget import CachePlan, Figures
from finetune.train.cache import Inputs
from finetune.train.phase import PhaseLearner
from finetune.train.state import index_batches

Stream = Generator[tuple[np.ndarray, Values], None, None]

JUDGED_AT_ONCE = 256
"""Images per batch of validation where they come out of a table: no pixels are in memory then."""


class PhaseInputs:
    """Training and validation images of one phase, on their way to its suffix.

    Args:
        network: whole.
        learner: of the phase.
        train: training images.
        val: validation images.
        cache: what may be kept.
        figures: kept up to date.
        tick: called while tables are filled; may raise to stop.
        last: no phase comes after this one.
        was: what `kept` said before the run was stopped; empty in a phase that begins now.
    """

    def __init__(
        self,
        network: Network,
        learner: PhaseLearner,
        train: AnyImages,
        val: AnyImages,
        cache: CachePlan,
        figures: Figures,
        tick: Callable[..., None] | None = None,
        *,
        last: bool = True,
        was: Mapping[str, bool] | None = None,
    ) -> None:
        self.phase, self.settings, self.plan, self.val = learner.phase, learner.settings, cache, val
        self.learner_cut = learner.cut
        figures.in_use = 0  # the tables of the phase before are gone with it
        if learner.cut.whole and cache.on:
            figures.note(f"phase {self.phase.index} is not cached: {learner.cut.where}")
        identity = identity_of(network, learner)
        augment, epochs = self.settings.augment, self.phase.epochs
        self.random = augment is not None and augment.random
        self.views = cache.views_for(epochs) if self.random else 1
        # fewer views than epochs are a fixed set of pictures, the same for every seed, so that the next run finds them
        fixed = self.random and self.views < epochs
        # what is solved sees each view once, and yet the next run may want them
        asked = math.inf if learner.convex else epochs
        store, was = cache.store(), was or {}
        self.problem = store.problem if cache.on and not learner.cut.whole else ""
        if self.problem:
            figures.note(self.problem)
        self.train = Inputs(
            train,
            learner.cut,
            learner.compute,
            cache,
            identity,
            figures,
            augment=augment,
            seed=0 if fixed else self.settings.seed,
            views=self.views,
            asked=asked,
            store=store,
            was=was.get("train"),
            release=last,  # those of validation stay: they may be judged in the end
            tick=tick,
        )
        if not self.train.cached:
            self.train.seed = self.settings.seed
        self.exact = cache.exact and last
        compute = learner.compute.in_fp32() if self.exact else learner.compute
        self.judged = Inputs(
            val, learner.cut, compute, cache, identity, figures, asked=asked, store=store, was=was.get("val"), tick=tick
        )
        if not self.judged.cached:
            self.exact, self.judged.compute = False, learner.compute

    def kept(self) -> dict[str, bool]:
        """Which of the two sets come out of tables: decided once for a phase, as it decides the bits."""
        return {"train": self.train.cached, "val": self.judged.cached}

    def as_dict(self) -> dict[str, Any]:
        """What is kept, in figures; `reason` says of the training images why they are not."""
        both, own = (self.train, self.judged), self.train
        return {
            "phase": self.phase.index,
            "cut": self.learner_cut.where,
            **self.kept(),
            "views": self.views if own.cached else 0,
            "bytes": sum(one.size for one in both if one.cached),
            "place": ("memory" if own.in_ram else "disk") if own.cached else None,
            "reason": own.reason or None,
        }

    def describe(self) -> str:
        """One line for people: what of this phase's work is done once, or why not."""
        return self._kept() + (f"; {self.problem}" if self.problem else "")

    def _kept(self) -> str:
        title, cut = self.phase.title, self.learner_cut
        if cut.whole:
            return f"{title}: nothing kept, cut {cut.where}"
        if not self.train.cached:
            kept = "validation kept, " if self.judged.cached else ""
            return f"{title}: {kept}training not kept ({self.train.reason}); cut {cut.where}"
        size = (self.train.size + self.judged.size) / 1e6
        place = "in memory" if self.train.in_ram else "on disk"
        views = f"{self.views} views" if self.views > 1 else "one view"
        return (
            f"{title}: the work {cut.where} is done once: {views} of {len(self.train.images):,} training images and "
            f"{len(self.val):,} of validation, {size:,.1f} MB {place}"
        )

    def training(self, index_batches: Iterable[Sequence[int] | np.ndarray], epoch: int) -> Stream:
        """The batches of an epoch: indices int64 [B], and the values of those images in the epoch's view."""
        if not self.random:
            view = 0
        elif self.train.cached:
            view = self.plan.view_of(epoch, self.phase.start, self.phase.epochs)
        else:
            view = epoch
        return self.train.batches(index_batches, view)

    def everything(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For a solver: features float32 [N x views, D] of all training images in all views, their places [N x views],
        and features [M, D] of the validation images; D numbers cross the cut."""
        order = index_batches(np.arange(len(self.train.images)), JUDGED_AT_ONCE)
        seen = [batch for view in range(self.views) for batch in self.train.batches(order, view)]
        rows = [_flat(values) for _, values in seen]
        return np.concatenate(rows), np.concatenate([places for places, _ in seen]), _all(self.validation())

    def answers(self, tick: Callable[[int], None]) -> np.ndarray | None:
        """Logits of the validation images by the network as it is now, float32 [M, classes], in full precision.

        None where what crosses the cut is not kept in full precision. The network must be in eval mode.
        """
        if not self.exact:
            return None
        return infer(lambda values: self.learner_cut.judge(*values).float(), self.validation(), tick)

    def validation(self) -> Stream:
        """All validation images in order."""
        size = JUDGED_AT_ONCE if self.judged.cached else max(self.settings.batch_size, 32)
        return self.judged.batches(index_batches(np.arange(len(self.val)), size))


def _all(stream: Iterable[tuple[np.ndarray, Values]]) -> np.ndarray:
    return np.concatenate([_flat(values) for _, values in stream])


def _flat(values: Values) -> np.ndarray:
    """The one value that reaches a linear head, as float32 [N, D]."""
    rows: np.ndarray = values[0].detach().flatten(1).float().cpu().numpy()
    return rows


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
    facts = [network.architecture, network.options, learner.cut.where, tensors_sha256(frozen)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()

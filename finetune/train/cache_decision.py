"""What of a phase's frozen features will be cached, where, and why not: decided before any image is read.

The decision is made once, by looks alone: at the cut, at a grey picture, at the free memory, at the room in the cache
folder. Nothing is computed or set aside here, so `finetune plan` can print it; `CachedInputs` acts on it. A resumed run
does not decide anew: features that come out of a table differ in the last bits from features computed batch by batch,
so a run that was stopped must go on as it began, and says so if it cannot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from finetune.data.batches import AnyImages
from finetune.device import free_memory
from finetune.errors import ResourceError
from finetune.model.network import Network
from finetune.train.cache_plan import GB, CachePlan
from finetune.train.phase import PhaseLearner
from finetune.train.store import Layout, Store
from finetune.train.table_source import TableSource, identity_of


@dataclass(frozen=True)
class TableDecision:
    """The decision whether and where to cache the features of one set of images.

    Attributes:
        source: the images and what they go through.
        reason: why they are not; empty if they are.
        layout: of a row, where they are.
        in_memory: else the tables lie in the cache folder and are mapped into memory.
        impossible: tables were wanted, and cannot be had.
    """

    source: TableSource
    reason: str = ""
    layout: Layout | None = None
    in_memory: bool = True
    impossible: bool = False

    @property
    def cached(self) -> bool:
        """Whether there will be tables."""
        return not self.reason

    @property
    def bytes_per_view(self) -> int:
        """Bytes of one table; 0 where there are none."""
        return len(self.source.images) * self.layout.bytes_per_row if self.layout is not None and self.cached else 0

    @property
    def size(self) -> int:
        """Bytes of the tables of all views."""
        return self.bytes_per_view * self.source.views

    def keys(self) -> list[str]:
        """The names of the tables."""
        return [self.source.key(view) for view in range(self.source.views)]


@dataclass(frozen=True)
class PhaseDecision:
    """The decision what to cache in a phase.

    Attributes:
        title: of the phase, for people.
        index: of the phase.
        train: of the training images.
        val: of the validation images.
        val_in_fp32: validation features are kept in full precision, because the final evaluation is made from them.
        store: the cache folder, shared by both sets.
        problem: why no table can be filed for the next run; empty if it can, or if there are none.
    """

    title: str
    index: int
    train: TableDecision
    val: TableDecision
    val_in_fp32: bool
    store: Store
    problem: str = ""

    def cached(self) -> dict[str, bool]:
        """Which of the two sets come out of tables; goes into checkpoints, as it decides the bits."""
        return {"train": self.train.cached, "val": self.val.cached}

    def as_dict(self) -> dict[str, Any]:
        """In figures, for `finetune plan --json`; `reason` says why the training images are not cached."""
        return {
            "phase": self.index,
            "cut": self.train.source.cut.where,
            **self.cached(),
            "views": self.train.source.views if self.train.cached else 0,
            "bytes": self.train.size + self.val.size,
            "place": ("memory" if self.train.in_memory else "disk") if self.train.cached else None,
            "reason": self.train.reason or None,
        }

    def describe(self) -> str:
        """One line for people: what is computed once in this phase, or why nothing is."""
        return self._cached_or_why() + (f"; {self.problem}" if self.problem else "")

    def _cached_or_why(self) -> str:
        cut, views, images = self.train.source.cut, self.train.source.views, len(self.train.source.images)
        if cut.no_prefix:
            reason = cut.where.removeprefix("at the images: ")
            return f"{self.title}: no feature cache: {reason}"
        if not self.train.cached:
            only = ", validation features only" if self.val.cached else ""
            return f"{self.title}: no feature cache{only}: {self.train.reason}"
        size = (self.train.size + self.val.size) / 1e6
        times = f" × {views} augmented versions" if views > 1 else ""
        return (
            f"{self.title}: frozen features ({cut.where}) are computed once: {images:,} training images{times} and "
            f"{len(self.val.source.images):,} validation images, {size:,.1f} MB "
            f"{'in memory' if self.train.in_memory else 'on disk'}"
        )


def decide_phase(
    network: Network,
    learner: PhaseLearner,
    train: AnyImages,
    val: AnyImages,
    plan: CachePlan,
    *,
    val_in_fp32: bool = False,
    resumed_decision: Mapping[str, bool] | None = None,
) -> PhaseDecision:
    """Decide which tables a phase will have.

    Args:
        network: whole.
        learner: of the phase.
        train: training images.
        val: validation images.
        plan: what may be cached.
        val_in_fp32: the final evaluation wants the validation features in full precision.
        resumed_decision: what `PhaseDecision.cached` said before the run was stopped; None in a phase that begins now.

    Raises:
        ResourceError: the run has used tables so far, and there is no room for them now.
    """
    settings, phase, store = learner.settings, learner.phase, plan.store()
    augment, epochs = settings.augment, phase.epochs
    random = augment is not None and augment.random
    views = plan.views_for(epochs) if random else 1  # without augmentation every epoch sees the same picture
    # fewer views than epochs are a fixed set of pictures, the same for every seed, so that the next run finds them
    seed = 0 if random and views < epochs else settings.seed
    # what is solved sees each view once, and yet the next run may want them
    passes = math.inf if learner.solves_head else epochs
    resumed = resumed_decision or {}
    source = TableSource(train, learner.cut, learner.compute, identity_of(network, learner), augment, seed, views)
    train_decision = decide_table(source, plan, store, passes, resumed.get("train"))
    if not train_decision.cached:
        train_decision = replace(train_decision, source=replace(source, seed=settings.seed))
    in_fp32 = learner.compute.in_fp32() if val_in_fp32 else learner.compute
    source = replace(source, images=val, compute=in_fp32, augment=None, seed=0, views=1)
    val_decision = decide_table(source, plan, store, passes, resumed.get("val"), beside=train_decision)
    # validation that is computed batch by batch is computed as training is: in fp32 it would cost more each epoch
    if not val_decision.cached:
        val_decision = replace(val_decision, source=replace(source, compute=learner.compute))
    problem = store.problem if plan.on and not learner.cut.no_prefix else ""
    return PhaseDecision(
        phase.title, phase.index, train_decision, val_decision, val_in_fp32 and val_decision.cached, store, problem
    )


def decide_table(
    source: TableSource,
    plan: CachePlan,
    store: Store,
    passes: float,
    resumed_decision: bool | None = None,
    beside: TableDecision | None = None,
) -> TableDecision:
    """Decide whether the features of one set of images are cached.

    Args:
        source: the images and what they go through.
        plan: what may be cached.
        store: the cache folder.
        passes: how often the phase asks for the whole set.
        resumed_decision: what was decided before the run was stopped; None if nothing was.
        beside: what takes room already.

    Raises:
        ResourceError: the run has used tables so far, and there is no room for them now.
    """
    if not plan.on:
        return TableDecision(source, "train.cache is off")
    if source.cut.no_prefix:
        return TableDecision(source, f"cut {source.cut.where}")
    if resumed_decision is False:
        return TableDecision(source, "decided when the phase began")
    single_pass = passes <= source.views and plan.views is None and not resumed_decision
    decision = _find_room(TableDecision(source, layout=source.layout()), plan, store, single_pass, beside)
    if decision.reason and resumed_decision:
        raise ResourceError(
            f"train.cache: {decision.reason}; the run has used the cache so far; without it, other bits would come out",
            "free memory or disk space as there was when it began, or start a new run",
        )
    return decision


def _find_room(
    wanted: TableDecision, plan: CachePlan, store: Store, once: bool, beside: TableDecision | None
) -> TableDecision:
    """The wanted tables in memory or on disk, or why they are not made.

    Args:
        wanted: with its layout.
        plan: what may be cached.
        store: the cache folder.
        once: this run asks for each table once, so that it is worth the memory only if the next run finds it.
        beside: what takes room already.
    """
    if wanted.layout is None:
        reason = f"what crosses the cut {wanted.source.cut.where} is no batch of numbers"
        return replace(wanted, reason=reason, impossible=True)
    taken = beside.size if beside is not None else 0
    promised = beside.size if beside is not None and not beside.in_memory else 0
    # half of what is free: decoded pictures, the optimizer and other programs need memory, too
    in_memory = taken + wanted.size <= min(plan.ram_gb * GB, free_memory() / 2)
    on_disk = (once or not in_memory) and store.fits(wanted.keys(), wanted.bytes_per_view, beside=promised)
    if once and not (in_memory and on_disk):
        reason = "each view is seen once, and there is no room to keep it for the next run"
        return replace(wanted, reason=reason, impossible=True)
    if not in_memory and not on_disk:
        images, views = len(wanted.source.images), wanted.source.views
        reason = (
            f"{views} views of {images:,} images need {wanted.size / GB:.2f} GB, more than is free or than "
            f"the budget (train.cache: ram_gb {plan.ram_gb:g}, disk_gb {plan.disk_gb:g})"
        )
        return replace(wanted, reason=reason, impossible=True)
    return replace(wanted, in_memory=in_memory)

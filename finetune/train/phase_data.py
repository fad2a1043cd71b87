"""The images of a phase on their way to its learning part, cached or not."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence

import numpy as np

from finetune.evaluate.loop import infer
from finetune.model.cut import Values
from finetune.train.cache_decision import PhaseDecision
from finetune.train.cache_plan import CachePlan
from finetune.train.cache_stats import CacheStats
from finetune.train.cached_inputs import CachedInputs, Progress
from finetune.train.phase import PhaseLearner
from finetune.train.state import index_batches

Stream = Generator[tuple[np.ndarray, Values], None, None]

ROWS_AT_ONCE = 256
"""Images per batch of validation where they come out of a table: no pixels are in memory then."""


class PhaseData:
    """Training and validation images of one phase.

    Args:
        decision: what of them is cached.
        learner: of the phase.
        plan: gives each epoch its view.
        stats: kept up to date.
        is_last_phase: no phase comes after this one, so that pictures that are in a table may go.
        tick: told (done, total) while tables are filled; may raise to stop.
    """

    def __init__(
        self,
        decision: PhaseDecision,
        learner: PhaseLearner,
        plan: CachePlan,
        stats: CacheStats,
        *,
        is_last_phase: bool = True,
        tick: Progress | None = None,
    ) -> None:
        self.decision, self.phase, self.settings, self.plan = decision, learner.phase, learner.settings, plan
        self._cut = learner.cut
        stats.in_use = 0  # the tables of the phase before are gone with it
        if learner.cut.no_prefix and plan.on:
            stats.note(f"phase {self.phase.index} is not cached: {learner.cut.where}")
        stats.note(decision.problem)
        for table in (decision.train, decision.val):
            stats.note(f"not cached: {table.reason}" if table.impossible else "")
        # the pictures of validation stay: the final evaluation may ask for them
        self.train = CachedInputs(decision.train, decision.store, stats, release=is_last_phase, tick=tick)
        self.val = CachedInputs(decision.val, decision.store, stats, tick=tick)

    def train_batches(self, index_batches: Iterable[Sequence[int] | np.ndarray], epoch: int) -> Stream:
        """The batches of an epoch: indices int64 [B], and the values of those images in the epoch's view."""
        return self.train.batches(index_batches, self.view(epoch))

    def view(self, epoch: int) -> int:
        """Which of the augmented versions an epoch of training sees."""
        augment = self.settings.augment
        if augment is None or not augment.random:
            return 0
        # uncached, every epoch may have a view of its own; cached, the views that were kept take turns
        cached = self.decision.train.cached
        return self.plan.view_of(epoch, self.phase.start, self.phase.epochs) if cached else epoch

    def all_features(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For a solver: all features at once; D numbers cross the cut.

        Returns:
            Features float32 [N x views, D] of all training images in all views, the places of those images
            [N x views], and features [M, D] of the validation images.
        """
        blocks = index_batches(np.arange(len(self.train.source.images)), ROWS_AT_ONCE)
        batches = [batch for view in range(self.train.source.views) for batch in self.train.batches(blocks, view)]
        rows = [_flat(values) for _, values in batches]
        return np.concatenate(rows), np.concatenate([indices for indices, _ in batches]), _all(self.val_batches())

    def eval_logits(self, tick: Callable[[int], None]) -> np.ndarray | None:
        """Logits of the validation images by the network as it is now, float32 [M, classes], in full precision.

        None where their features are not cached in full precision. The network must be in eval mode.
        """
        if not self.decision.val_in_fp32:
            return None
        return infer(lambda values: self._cut.eval_suffix(*values).float(), self.val_batches(), tick)

    def val_batches(self, indices: np.ndarray | None = None) -> Stream:
        """Validation images in order, all or those at `places`, int64 [M]."""
        size = ROWS_AT_ONCE if self.decision.val.cached else max(self.settings.batch_size, 32)
        selected = np.arange(len(self.val.source.images)) if indices is None else indices
        return self.val.batches(index_batches(selected, size))


def _all(stream: Iterable[tuple[np.ndarray, Values]]) -> np.ndarray:
    return np.concatenate([_flat(values) for _, values in stream])


def _flat(values: Values) -> np.ndarray:
    """The one value that reaches a linear head, as float32 [N, D]."""
    rows: np.ndarray = values[0].detach().flatten(1).float().cpu().numpy()
    return rows

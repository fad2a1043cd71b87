"""How much longer a whole run takes: stages not begun by what was expected, the present one by its pace."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

ENOUGH = 0.02
"""Share of a stage after which its own pace is believed."""

FEATURES, TRAINING, EVALUATING = "computing frozen features", "training", "evaluating"
"""Stages whose time is that of the network's passes over images."""


class TimeLeft:
    """Seconds left of a run.

    Args:
        clock: seconds that only grow.

    Attributes:
        remaining: stage → seconds, in the order of the run; a stage that may come again keeps what it needs then.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage, self._began, self._from = "", 0.0, 0.0
        self._done: list[float] = []
        self._expected: dict[str, float] = {}
        self._trained = False
        self.remaining: dict[str, float] = {}

    def expect(self, seconds: Mapping[str, float], work: Sequence[float]) -> None:
        """What each stage that is to come will take, in their order, and the work of each epoch beside the others."""
        self.remaining, self._expected = dict(seconds), dict(seconds)
        whole = sum(work)
        self._done = [sum(work[:epoch]) / whole if whole else epoch / len(work) for epoch in range(len(work) + 1)]

    def at(self, stage: str, share: float) -> None:
        """A stage has come to this share of its work, 0 to 1."""
        now = self._clock()
        if stage != self._stage:
            self._stage, self._began, self._from = stage, now, share
            self._skip_to(stage)
        if share <= self._from:  # no pace yet: what was done until now was no work of this stage
            self._began = now
        if share >= 1.0:
            self.remaining[stage] = 0.0
        elif share - self._from >= ENOUGH:
            seconds = (now - self._began) / (share - self._from)
            self.remaining[stage] = seconds * (1.0 - share)
            if stage == FEATURES:
                self._correct(seconds)

    def in_training(self, epoch: int, step: int, steps: int) -> None:
        """So many epochs and steps of the next one are done."""
        self._trained = True
        if self._done:
            before, after = self._done[epoch], self._done[min(epoch + 1, len(self._done) - 1)]
            self.at(TRAINING, before + (after - before) * step / max(1, steps))

    def text(self) -> str:
        """``about 3 min to the end``; empty where nothing is known of what comes."""
        if not self._done:
            return ""
        return f"about {rounded(sum(self.remaining.values()))} to the end"

    def _correct(self, seconds: float) -> None:
        """Expect later passes over images to be off by as much as the features were, which took `seconds`."""
        if not self._trained and (expected := self._expected.get(FEATURES)):
            for stage in {TRAINING, EVALUATING} & self._expected.keys():
                self.remaining[stage] = self._expected[stage] * seconds / expected

    def _skip_to(self, stage: str) -> None:
        """What was expected before `stage` and has not come, will not."""
        if stage in self.remaining:
            order = list(self.remaining)
            self.remaining.update(dict.fromkeys(order[: order.index(stage)], 0.0))


def rounded(seconds: float) -> str:
    """Seconds as one would say them: ``15 s``, ``4 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

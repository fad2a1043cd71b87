"""When a run is saved, and where its best weights are: in checkpoints, or in memory where there is no run folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finetune.runs.checkpoints import FORMAT, Checkpoints
from finetune.train.phase import PhaseLearner, on_cpu
from finetune.train.state import Position, Settings

State = dict[str, torch.Tensor]


def checkpoint_of(
    module: nn.Module, learner: PhaseLearner, position: Position, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """All that it takes to go on, as plain PyTorch saves it.

    There is no random state and no loader in it: data order, views, dropout and rates are functions of the few integers
    in `position` (see `finetune.train.trainer`).

    Args:
        module: the network; its weights are not copied, so the result is to be saved before anything learns on.
        learner: of the phase.
        position: how far the run has come.
        extra: further plain values.
    """
    # people read `epoch`: the one in progress, or the last that is complete; `position` is what a resume goes by
    finished = position.history[-1]["epoch"] if position.history else 0
    return {
        "format": FORMAT,
        "epoch": position.epoch if position.step_in_epoch else finished,
        "step": position.step,
        "loss": position.loss,
        "model_state_dict": on_cpu(dict(module.state_dict())),
        **learner.state(),
        "position": asdict(position),
        **extra,
    }


class Saver:
    """Saves a run at the moments that its settings name.

    Args:
        checkpoints: where to; None keeps the best weights in memory only.
        settings: say how often.
    """

    def __init__(self, checkpoints: Checkpoints | None, settings: Settings) -> None:
        self.checkpoints, self.settings = checkpoints, settings
        self._step, self._time = -1, time.monotonic()
        self._best_in_memory: State | None = None

    def is_saved(self, step: int) -> bool:
        """Whether the newest checkpoint is of this step."""
        return self._step == step

    def is_due(self, step: int) -> bool:
        """Whether it is time to save, in the middle of an epoch."""
        settings = self.settings
        # when a checkpoint is written changes nothing in the run, so the clock may decide it
        by_time = time.monotonic() - self._time >= 60 * (settings.every_minutes or math.inf)
        return by_time or (settings.every_steps is not None and step % settings.every_steps == 0)

    def is_due_after(self, epoch: int) -> bool:
        """Whether the end of an epoch is saved; `epoch` have ended by now."""
        every = self.settings.every_epochs
        return every is not None and epoch % every == 0

    def note(self, step: int) -> None:
        """This step has been saved, or come out of a checkpoint."""
        self._step, self._time = step, time.monotonic()

    def save(self, content: Mapping[str, Any], step: int, *, best: bool, numbered: bool) -> Path | None:
        """Publish a checkpoint; None where there is no place for one.

        Args:
            content: of the checkpoint, see `checkpoint_of`.
            step: of the run.
            best: under the name of the best one.
            numbered: under a name of its own.
        """
        if self.checkpoints is None:
            return None
        path = self.checkpoints.save(content, best=best, numbered=numbered)
        if numbered:
            self.note(step)
        return path

    def keep_best(self, state: Callable[[], State]) -> None:
        """Keep the weights of an epoch that is the best so far, where no checkpoint will."""
        if self.checkpoints is None:
            self._best_in_memory = state()

    def knows_best(self, position: Position, unchanged: bool) -> bool:
        """Whether a checkpoint holds the weights of the best epoch after a restart; see `Checkpoints.has_best`."""
        best, saved = position.best, self.checkpoints
        return best is not None and saved is not None and saved.has_best(best, position.step, unchanged)

    def best_state(self) -> State:
        """The weights of the best epoch, on the CPU."""
        if self.checkpoints is not None:
            return self.checkpoints.best_weights()
        assert self._best_in_memory is not None
        return self._best_in_memory

"""Which weights a run keeps: those of its best epoch, or by a gate those of the solved head or of the tuned network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from finetune.distributed.ranks import this_rank
from finetune.errors import UsageError
from finetune.evaluate.metrics import epoch_metrics
from finetune.model.network import Network
from finetune.train.gate import TUNED, decide, go_back
from finetune.train.out_of_fold import (
    OutOfFold,
    SpareHead,
    checkpoint_entries,
    from_checkpoint,
    spare_entries,
    spare_from_checkpoint,
)
from finetune.train.saver import Saver
from finetune.train.solve import SolvedPhase
from finetune.train.state import Position, Settings


class Choice:
    """Keeps the weights of the best epoch, and what is known of the solved heads.

    With a gate, what follows the solved head is a candidate only after the last epoch; until then `best.pth` is that
    of the solved head.

    Args:
        network: being trained.
        labels: int64 [N], of the training images and then those of validation.
        settings: say by what the best epoch is known.
        epochs: of the run.
        saver: where weights are kept.
    """

    def __init__(self, network: Network, labels: np.ndarray, settings: Settings, epochs: int, saver: Saver) -> None:
        self.network, self.labels, self.settings = network, labels, settings
        self.epochs, self.saver = epochs, saver
        self.out_of_fold: OutOfFold | None = None
        self.spare: SpareHead | None = None

    def note(self, found: SolvedPhase) -> None:
        """A head has been solved."""
        self.out_of_fold, self.spare = found.out_of_fold, found.spare

    def update(
        self,
        position: Position,
        record: Mapping[str, Any],
        answers: tuple[np.ndarray, np.ndarray],
        state: Callable[[], dict[str, torch.Tensor]],
        *,
        solved: bool,
        thaws: bool,
    ) -> bool:
        """Whether the weights are now the best so far; if so, they are kept and calibrated.

        Args:
            position: at the end of an epoch.
            record: of the epoch.
            answers: logits, float32 [N, classes], and labels, int64 [N], that the epoch was evaluated by.
            state: gives a copy of the weights.
            solved: the epoch solved the head.
            thaws: the next epoch begins a phase.
        """
        if self.spare is None or solved or position.best is None:
            improved = position.update_best(record, self.settings.select, thaws)
        elif improved := position.epoch + 1 == self.epochs:
            answers = self._choose(position, record, self.spare, *answers)
        if improved:
            position.calibrate(*answers, self.settings.loss)
            self.saver.keep_best(state)
        return improved

    def _choose(
        self, position: Position, record: Mapping[str, Any], spare: SpareHead, logits: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Let the gate choose; logits and labels by which what it keeps is to be calibrated."""
        select, solved = self.settings.select, spare.out_of_fold.logits
        position.gate = decide(labels, solved[-len(labels) :], logits)
        if position.gate["kept"] == TUNED:
            position.best = {"epoch": position.epoch, "value": float(record[select])}
            return logits, labels
        if this_rank().main:  # the others keep no weights
            go_back(self.network, spare, self.saver.best_state())
        self.out_of_fold = spare.out_of_fold
        position.best = {**(position.best or {}), "value": epoch_metrics(self.labels, solved)[select]}
        return solved, self.labels

    def entries(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {**checkpoint_entries(self.out_of_fold), **spare_entries(self.spare)}

    def restore(self, checkpoint: Mapping[str, Any], position: Position) -> None:
        """Take what a checkpoint holds.

        Raises:
            UsageError: the gate has chosen, and training would go on from a head that knows the validation images.
        """
        if position.gate and position.epoch < self.epochs:
            raise UsageError(
                "train.epochs: the run has chosen between solved and tuned already, it cannot be trained on",
                "begin a new run with so many epochs",
            )
        self.out_of_fold, self.spare = from_checkpoint(checkpoint), spare_from_checkpoint(checkpoint)

"""The trainer: an iterator over epochs that can be killed at any instant and resumed to the same bits.

A few integers say where a run stands, and what a kill interrupts is done again from the last whole step;
`finetune.story.resume` says why that is enough.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.data.batches import AnyImages
from finetune.data.load import order
from finetune.device import Compute, own_randomness, seed
from finetune.distributed.ranks import this_rank
from finetune.errors import DivergedError, Stopped
from finetune.model.freeze import live_batchnorm
from finetune.model.network import Network
from finetune.model.plan import FreezePlan, Phase
from finetune.runs.checkpoints import Checkpoints
from finetune.train.across_ranks import fill_cache, solve_on_main, validate
from finetune.train.cache_decision import PhaseDecision, decide_phase
from finetune.train.cache_plan import CachePlan
from finetune.train.cache_stats import CacheStats
from finetune.train.choice import Choice
from finetune.train.epoch_record import epoch_record
from finetune.train.gate import require_enough
from finetune.train.out_of_fold import OutOfFold
from finetune.train.phase import PhaseLearner
from finetune.train.phase_data import PhaseData, Stream
from finetune.train.saver import Saver, checkpoint_of
from finetune.train.solvable import require_solvable
from finetune.train.state import Position, Settings, step_batches

Tick = Callable[[int, int, int, float, float], None]
"""Called after each step with epoch, step of the epoch, steps of the epoch, mean loss so far, images per second."""


class Trainer:
    """Trains a network through the phases of its freeze plan: `for record in trainer: ...`.

    Each item is the record of a finished epoch, a row of `history.csv` (`grad:GROUP` is the mean norm of a layer
    group's gradient). After the last, `best_state()` has the weights of the best epoch.

    Args:
        network: the network, changed in place.
        plan: what learns when.
        train: training images.
        val: validation images.
        settings: how.
        compute: where.
        cache: what may be cached of the frozen features.
        val_is_final: there are no test images, so the final evaluation is of validation.
        checkpoints: where to save; None keeps the best weights in memory only.
        stop, tick: called after each step (see `Tick`); a signal number from `stop` means save and stop.
        progress, say: called with (what, done, total) while features are computed, and with a line on what is cached.
    """

    def __init__(
        self,
        network: Network,
        plan: FreezePlan,
        train: AnyImages,
        val: AnyImages,
        settings: Settings,
        compute: Compute,
        *,
        cache: CachePlan | None = None,
        val_is_final: bool = False,
        checkpoints: Checkpoints | None = None,
        stop: Callable[[], int | None] = lambda: None,
        tick: Tick | None = None,
        progress: Callable[[str, int, int], None] = lambda what, done, total: None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.network, self.module = network, compute.place(network.module)
        self.plan, self.train, self.val = plan, train, val
        self.settings, self.compute, self.checkpoints = settings, compute, checkpoints
        self.stop, self.tick, self.progress, self.say = stop, tick, progress, say
        self.val_is_final = val_is_final
        self.extra: dict[str, Any] = {}
        self.position = Position()
        self.cache, self.stats = cache or CachePlan(on=False), CacheStats()
        self.learner: PhaseLearner | None = None
        self.data: PhaseData
        self._labels = train.labels
        self._saver = Saver(checkpoints, settings)
        self._signum: int | None = None
        labels = np.concatenate([train.labels, val.labels])
        self.choice = Choice(network, labels, settings, plan.epochs, self._saver)
        require_solvable(self.module, plan.phases, settings)
        if settings.gate:
            require_enough(len(val))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Train, yielding each epoch's record; `early_stop` ends a phase, and so the run if it is the last.

        Raises:
            Stopped: `stop` said so; the last whole step is saved. DivergedError: a loss or gradient is not finite.
        """
        while self.position.epoch < self.plan.epochs:
            try:
                with own_randomness(), self.compute.own_threads():
                    learner = self._enter_phase()
                    self._train_epoch(learner)
                    record = self._finish_epoch(learner)
            except Stopped:
                if not self._saver.is_saved(self.position.step):
                    self.save()
                raise
            yield record

    def prepare(
        self, phase: Phase, resumed_decision: Mapping[str, bool] | None = None
    ) -> tuple[PhaseLearner, PhaseDecision]:
        """The learner of a phase, and the decision what of its frozen features to cache; reads no image.

        Args:
            phase: of the plan.
            resumed_decision: what was cached in this phase before the run was stopped.
        """
        with own_randomness(), self.compute.own_threads():
            example = self.train.preprocess.example().to(self.compute.device)
            learner = PhaseLearner(self.module, self.plan, phase, self.settings, self.compute, example)
            in_fp32 = self.val_is_final and phase.stop >= self.plan.epochs and not learner.learns_from_val
            images = (self.train, self.val)
            decide = partial(decide_phase, self.network, learner, *images, self.cache, val_in_fp32=in_fp32)
            decision = this_rank().decide_on_main(
                lambda resumed: decide(resumed_decision=resumed), PhaseDecision.cached, resumed_decision
            )
        return learner, decision

    def _enter_phase(self, checkpoint: Mapping[str, Any] | None = None) -> PhaseLearner:
        """The learner of the current epoch's phase, a new one at a thaw; `checkpoint` decides what stays cached."""
        phase = self.plan.phase_at(self.position.epoch)
        if self.learner is None or self.learner.phase != phase:
            resumed = checkpoint.get("kept") if checkpoint and checkpoint["phase"] == phase.index else None
            self.learner, decision = self.prepare(phase, resumed)
            is_last = phase.stop >= self.plan.epochs

            def tick(done: int, total: int) -> None:
                self.progress("computing frozen features", done, total)
                self._check_stop()

            self.data = PhaseData(decision, self.learner, self.cache, self.stats, is_last_phase=is_last, tick=tick)
            self.say(decision.describe())
        return self.learner

    def _train_epoch(self, learner: PhaseLearner) -> None:
        position, settings = self.position, self.settings
        if learner.solves_head:
            return self._solve(learner)
        image_order = order(settings.seed, position.epoch, len(self.train))
        steps = step_batches(image_order, settings.batch_size, settings.accumulate)
        learner.rate(position.epoch, max(0, position.step_in_epoch - 1), len(steps))  # for the record if none is left
        remaining = steps[position.step_in_epoch :]
        learner.train_mode()
        ranks, min_images = this_rank(), 2 if live_batchnorm(self.module) else 1
        fill_cache(self.data.train, self.data.view(position.epoch))
        own_batches = (batch for step in remaining for batch in ranks.parts(step, min_images)[0])
        stream = self.data.train_batches(own_batches, position.epoch)
        clock = time.perf_counter()
        try:
            for step in remaining:
                self._step(learner, stream, step, len(steps), ranks.parts(step, min_images)[1])
                now = time.perf_counter()
                position.seconds, clock = position.seconds + now - clock, now
                self._after_step(len(steps))
        finally:
            stream.close()

    def _solve(self, learner: PhaseLearner) -> None:
        """Put the optimum into the head; for the checkpoint this counts as one step."""
        clock = time.perf_counter()
        found = solve_on_main(self.network, learner, self.data, self.say, self._check_stop)
        self.choice.note(found)
        self.position.advance(found.images, found.train_loss * found.images)
        self.position.seconds += time.perf_counter() - clock

    def _step(self, learner: PhaseLearner, stream: Stream, step: list[np.ndarray], steps: int, share: float) -> None:
        position, images, device = self.position, sum(len(batch) for batch in step), self.compute.device
        rate = learner.rate(position.epoch, position.step_in_epoch, steps)
        ranks = this_rank()
        # dropout hangs on (seed, step, rank) alone; the factor keeps the steps of two seeds apart
        seed(self.settings.seed * 1_000_003 + position.step + (ranks.rank << 40), device)
        try:
            batches = (
                (values, torch.from_numpy(self._labels[i]).to(device)) for i, values in islice(stream, len(step))
            )
            with ranks.waiting_for("gradients"):
                total = learner.step(batches, images / share, position.step, position.norms)
        except DivergedError as error:
            raise position.diverged(error.problems[0], rate) from error
        total, self._signum = ranks.agree(total * share / ranks.world, self.stop())
        position.step_in_epoch += 1
        position.advance(images, total)

    def _after_step(self, steps: int) -> None:
        """Show progress; save if it is time to; stop if asked to."""
        position = self.position
        if self.tick:
            self.tick(position.epoch, position.step_in_epoch, steps, position.loss, position.speed)
        if self._saver.is_due(position.step):
            self.save()
        self._check_stop()

    def _check_stop(self, *_: object) -> None:
        # where there are other ranks, they all stop after the same step: the one after which they agreed to
        if (signum := self.stop() if this_rank().alone else self._signum) is not None:
            raise Stopped(signum, f"saved at step {self.position.step} (epoch {self.position.epoch + 1})")

    def _finish_epoch(self, learner: PhaseLearner) -> dict[str, Any]:
        """Validate, record, keep the best, save."""
        position = self.position
        with learner.averaged():
            logits, labels = validate(self.network, learner, self.data, self.out_of_fold, self._check_stop)
            record = epoch_record(position, learner, self.network.groups, logits, labels)
            thaws = any(phase.start == position.epoch + 1 for phase in self.plan.phases)
            improved = self.choice.update(
                position, record, (logits, labels), self.state, solved=learner.solves_head, thaws=thaws
            )
        position.history.append(record)
        position.next_epoch()
        if learner.solves_head:
            position.epoch = learner.phase.stop  # it is solved: further epochs would change nothing
        elif position.stale >= (self.settings.early_stop or math.inf):
            position.stop_early(learner.phase.index, learner.phase.start, learner.phase.stop)
        ended = position.epoch >= self.plan.epochs
        save_numbered = ended or self._saver.is_due_after(position.epoch)
        if improved or save_numbered:
            self.save(best=improved, numbered=save_numbered)
        self._check_stop()
        return record

    @property
    def out_of_fold(self) -> OutOfFold | None:
        """What a head that knows all images answered to those that it had not seen, if the run keeps such a head."""
        return self.choice.out_of_fold

    def val_logits(self, tick: Callable[[int], None]) -> np.ndarray | None:
        """Validation logits by the present weights, float32 [N, classes]; None unless fp32 features are cached."""
        self.module.eval()
        with self.compute.own_threads():
            return self.data.eval_logits(tick) if self.learner else None

    def state(self) -> dict[str, torch.Tensor]:
        """A copy of the network's weights, on the CPU."""
        return {name: value.detach().cpu().clone() for name, value in self.module.state_dict().items()}

    def save(self, *, best: bool = False, numbered: bool = True) -> Path | None:
        """Publish a checkpoint of this moment, as the best, as a numbered one, or both; None without a folder."""
        learner, position = self.learner, self.position
        if learner is None:
            return None
        extra = {"kept": self.data.decision.cached(), **self.choice.entries(), **self.extra}
        content = checkpoint_of(self.module, learner, position, extra)
        return self._saver.save(content, position.step, best=best, numbered=numbered)

    def restore(self, checkpoint: Mapping[str, Any], *, unchanged: bool = True) -> None:
        """Go on from `checkpoint` instead of from the start.

        Args:
            checkpoint: of this run.
            unchanged: the recipe and the data are still the same, so going on from an earlier moment leads to the same
                `best.pth` again; where they have changed, one that belongs to a later moment is forgotten.
        """
        self.module.load_state_dict(checkpoint["model_state_dict"])
        self.position = Position(**checkpoint["position"])
        self.choice.restore(checkpoint, self.position)
        self._saver.note(self.position.step)
        if self.position.epoch < self.plan.epochs:
            with own_randomness():
                learner = self._enter_phase(checkpoint if unchanged else None)
            if learner.phase.index == checkpoint["phase"]:
                learner.restore(checkpoint)
        if not self._saver.knows_best(self.position, unchanged):
            self.position.best = None
        if not this_rank().alone:  # only rank 0 knows the checkpoints
            self.position = Position(**this_rank().broadcast(asdict(self.position)))

    def best_state(self) -> dict[str, torch.Tensor]:
        """Weights of the best epoch by `select`, on the CPU; of the last one where none is known to be the best.

        Raises:
            DivergedError: in no epoch were the answers on the validation images finite.
        """
        if self.position.best is None:
            self.position.require_finite()
            return self.state()
        return self._saver.best_state()

"""Resumes a run to the same bits as if it had never stopped, and opens a run as plain PyTorch objects.

The idea: nothing is stored that can be computed. The order of the images is a function of (seed, epoch), a view of
(seed, epoch, image), dropout of (seed, step), the learning rate of the step. So a checkpoint needs only the weights,
the optimizer's state and a few numbers that say how far the run has come (`finetune.train.state.Position`); the trainer
then enters the middle of an epoch as if it had come there by itself.

Why it is the same run: every step depends on those numbers and on the weights alone. What depends on the moment (is
there memory for the cache? which precision? which backbone is `auto`?) was decided once, is kept in the checkpoint, in
run.json or in the resolved recipe, and is not decided again.

What would break it: drawing from a random state that is not seeded at each step; a decision that a resumed run takes
anew; features computed in other blocks (see `finetune.train.cached_inputs`). Another number of threads, another
processor or another version of PyTorch changes the last bits, which nothing here can prevent.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from finetune.classifier import Classifier
from finetune.classifier.accept import path_of
from finetune.distributed.join import join
from finetune.errors import FinetuneError, UsageError, called, spoken
from finetune.runs.folder import RunFolder
from finetune.runs.reporter import Reporter
from finetune.story.other_ranks import run_as_other_rank
from finetune.story.recipes import save_recipe, saved_recipe
from finetune.story.result import Run
from finetune.story.run import carry_out, checkpoints_of
from finetune.train.optimizer import accept_any_phase, make_optimizer

if TYPE_CHECKING:
    import torch
    from torch import nn


@spoken("recipe")
def resume(
    run: str | os.PathLike[str],
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
    accept_changes: bool = False,
    reporter: Reporter | None = None,
) -> Run:
    """Go on with a run from its newest whole checkpoint, to the same bits as if it had never stopped.

    Args:
        run: its folder.
        checkpoint: go on from this one instead.
        data: the data folder, if it has moved; its content must be the same.
        accept_changes: go on although recipe or data have changed since.
        reporter: takes messages and progress.

    Raises:
        UsageError: no such run, or a changed recipe. DataError: changed data. ArtefactError: no whole checkpoint, or
            one of another run.
    """
    reporter = reporter or Reporter()
    if not join().main:
        return run_as_other_rank(None, reporter)
    folder = RunFolder.open(path_of(run, "run"))
    checkpoint = None if checkpoint is None else path_of(checkpoint, "checkpoint")
    recipe, changes = saved_recipe(folder, data)
    if folder.record.status == "finished" and not changes and checkpoint is None:
        reporter.say(f"{folder.path} is finished already: nothing to do")
        return Run(folder.path)
    if changes and not accept_changes:
        change = called("finetune resume --accept-changes", "ft.resume(run, accept_changes=True)")
        remedy = f"put the recipe back as it was, or go on with the change: {change}"
        raise UsageError([f"{folder.names.recipe}: {line}" for line in changes], remedy)
    folder.lock()
    try:
        state = checkpoints_of(folder, recipe).latest(reporter.say, checkpoint)
        folder.require_own(state, checkpoint)
    except FinetuneError:
        folder.unlock()
        raise
    if state is None:
        reporter.say("no checkpoint yet: starting from the beginning")
    with folder.recording():
        save_recipe(folder, recipe)
        carry_out(folder, recipe, reporter, state, accept_changes)
    return Run(folder.path)


def open_run(run: str | os.PathLike[str]) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The network and the optimizer of a run, as its newest checkpoint left them.

    Both take what any of the run's checkpoints holds: `model.load_state_dict(checkpoint["model_state_dict"])`,
    `optimizer.load_state_dict(checkpoint["optimizer_state_dict"])`.
    """
    folder = RunFolder.open(path_of(run, "run"))
    recipe, record = saved_recipe(folder)[0], folder.record
    classifier = Classifier.from_recipe(recipe, record.classes, record.freeze, run=record)
    train, module = recipe.train, classifier.network.module
    plan = classifier.plan(**train.model_dump())
    state = checkpoints_of(folder, recipe).latest(Reporter().say)
    phase = plan.phases[state["phase"]] if state else plan.phases[0]
    kind = state.get("optimizer", train.optimizer) if state else train.optimizer
    optimizer = make_optimizer(module, plan, phase, kind, weight_decay=train.weight_decay, momentum=train.momentum)
    accept_any_phase(optimizer, module)
    if state:
        module.load_state_dict(state["model_state_dict"])
        optimizer.load_state_dict(state["optimizer_state_dict"])
    return module, optimizer

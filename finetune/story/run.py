"""One recipe from start to finish: `run` makes the folder, `carry_out` lists the steps, each a function below it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from finetune.classifier import Classifier
from finetune.classifier.accept import path_of, patterns_of
from finetune.data.batches import load_images
from finetune.data.dataset import Dataset
from finetune.deliver.export.of_run import export_at_the_end
from finetune.deliver.export.publish import require_formats
from finetune.deliver.publish import (
    images_of,
    publish_data,
    publish_decisions,
    publish_model,
    publish_plan,
    publish_report,
)
from finetune.deliver.tracking import Trackers, require_trackers
from finetune.device import choose
from finetune.distributed.join import join
from finetune.distributed.launch import leave_folder
from finetune.distributed.ranks import this_rank
from finetune.errors import spoken
from finetune.evaluate.evaluation import OUT_OF_FOLD, Evaluation, evaluate_images, evaluate_logits
from finetune.model.freeze import freeze_hashes
from finetune.model.lineage import Base
from finetune.recipe.schema import Recipe
from finetune.recipe.without import recipe_values
from finetune.report.cautions import cautions
from finetune.report.faults import Faults
from finetune.report.solved_or_tuned import gate_sentence
from finetune.report.tables import per_class_text
from finetune.runs.checkpoints import Checkpoints
from finetune.runs.clock import Clock
from finetune.runs.folder import RunFolder
from finetune.runs.reporter import Reporter
from finetune.story.announce import show_plan
from finetune.story.images import read_images
from finetune.story.other_ranks import require_same, run_as_other_rank, send_run_to_ranks
from finetune.story.preflight import preflight_classifier
from finetune.story.recipes import prepare, save_recipe, with_decisions
from finetune.story.result import Run
from finetune.story.tuning import tuning
from finetune.train.across_ranks import logits_of
from finetune.train.rate_jump import rate_jump
from finetune.train.trainer import Trainer


@spoken("recipe")
def run(
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    overrides: Sequence[str] = (),
    freeze: Sequence[str] | str = (),
    reporter: Reporter | None = None,
) -> Run:
    """Do what a recipe says: read the images, build the network, freeze, train, evaluate, report.

    Args:
        recipe: a file, a mapping, or one already loaded.
        out: the run folder, absent or empty; by default the next of runs/NAME/001, 002, ….
        overrides: KEY=VALUE each, as `-o` on the command line.
        freeze: layer patterns that never learn.
        reporter: takes messages and progress; by default a plain line an epoch on stderr.

    Returns:
        The run: its folder, record and figures.

    Raises:
        FinetuneError: of the kind that says what is wrong; what was good until then is kept in the folder.
    """
    recipe, reporter = prepare(recipe, overrides), reporter or Reporter()
    if not join(recipe.train.device).main:
        return run_as_other_rank(recipe, reporter)
    require_formats(recipe.export)
    require_trackers(recipe.log)
    choose(recipe.train.device, recipe.train.precision)  # refused before there is a folder
    folder = RunFolder.create(None if out is None else path_of(out, "out"), recipe.name or "run", recipe.data.folder)
    with folder.recording():
        leave_folder(folder.path)
        folder.record.freeze = list(patterns_of(freeze, "freeze"))
        save_recipe(folder, recipe)
        carry_out(folder, recipe, reporter)
    return Run(folder.path)


@spoken("recipe")
def fit(
    folder: str | os.PathLike[str],
    backbone: str = "auto",
    *,
    tune: bool = False,
    out: str | os.PathLike[str] | None = None,
    overrides: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> Run:
    """The best classifier for a folder of images, without a recipe: `ft.fit("photos").predict("new.jpg")`.

    Args:
        folder: one folder of images per class, or split folders with class folders in them.
        backbone: what to start from; auto is the best network at hand.
        tune: train its last layers after the solved head, and keep the better of both.
        out: the run folder; by default the next of runs/NAME/001, 002, ….
        overrides: KEY=VALUE each, as `-o` on the command line.
        reporter: takes messages and progress; by default a plain line an epoch on stderr.

    Raises:
        FinetuneError: of the kind that says what is wrong.
    """
    values = recipe_values(path_of(folder, "folder"), backbone)
    more = tuning(prepare(values, overrides)) if tune else []
    return run(values, out=out, overrides=[*more, *overrides], reporter=reporter)


def carry_out(
    folder: RunFolder,
    recipe: Recipe,
    reporter: Reporter,
    state: Mapping[str, Any] | None = None,
    accept_changes: bool = False,
) -> None:
    """All steps between making the run folder and its last file.

    Args:
        folder: locked, with its recipe saved.
        recipe: resolved.
        reporter: takes messages and progress.
        state: the checkpoint to go on from; None at the start.
        accept_changes: go on although recipe or images are no longer those that the run began with.
    """
    clock = Clock(reporter.started)
    clock.lap("start")
    # from names alone, before any image is read: a typo in a layer or a path ends the run in seconds, not in minutes
    preflight = preflight_classifier(recipe, folder.record.freeze, None if state is None else folder.record)
    clock.lap("load")
    send_run_to_ranks(folder, recipe, state)
    with this_rank().local_main_first():
        data = read_images(recipe, reporter)
    require_same(recipe, data)
    changed = publish_data(folder, data, accept_changes) or accept_changes
    clock.lap("scan")
    with this_rank().local_main_first():
        same_classes = preflight is not None and preflight.classes == data.classes
        # reading may have dropped a class, such as one whose images are all broken: then the head has another width
        classifier = preflight if preflight and same_classes else build_classifier(folder, recipe, data.classes, state)
    # their names were checked before the folder was made; whether this network can be exported, only it tells
    require_formats(recipe.export, classifier.network)
    trainer = make_trainer(folder, recipe, classifier, data, reporter)
    if state is not None:
        restore(trainer, folder, state, changed, reporter)
    # where the data have changed, an old checkpoint cannot vouch for the frozen layers: they are hashed as they are now
    mark_checkpoints(trainer, folder, None if changed else state)
    show_plan(trainer, len(data.parts()[-1][1]), reporter)
    publish_plan(folder, trainer)
    # the recipe in the folder runs again to the same network: what it left open is written out, now that it is decided
    save_recipe(folder, with_decisions(recipe, classifier, data, trainer))
    publish_decisions(folder, trainer)
    clock.lap("build")
    trackers = make_trackers(folder, recipe, reporter)
    train(trainer, folder, reporter, trackers)
    clock.lap("train")
    publish_model(folder, trainer)
    reporter.notes(folder.record.stopped_early or [])
    reporter.best(trainer.position.best, trainer.settings.select)
    evaluation, split = evaluate(recipe, trainer, data, reporter)
    clock.lap("judge")  # a key of `timings` in run.json that scripts read, so the name stays
    folder.update(timings=clock.laps)
    reporter.working("writing the report", 0, 1)
    reporter.notes(publish_report(folder, trainer, data, evaluation, split))
    trackers.report(folder.names, evaluation.metrics.as_dict(split))
    clock.lap("report")
    report_figures(evaluation, split, folder, reporter)
    reporter.notes(export_at_the_end(folder, recipe.export, reporter.say))
    clock.lap("export")
    folder.update(timings=clock.laps)


def build_classifier(
    folder: RunFolder, recipe: Recipe, classes: Sequence[str], state: Mapping[str, Any] | None
) -> Classifier:
    """The classifier that the recipe describes; a checkpoint `state` will bring its weights."""
    return Classifier.from_recipe(recipe, classes, folder.record.freeze, run=None if state is None else folder.record)


def report_figures(evaluation: Evaluation, split: str, folder: RunFolder, reporter: Reporter) -> None:
    """Say how good the network is, on which images, and what qualifies that; a fault in here ends no run."""
    faults = Faults()
    with faults.tolerate("the table of figures"):
        figures = per_class_text(evaluation.metrics, split=split, cautions=evaluation.cautions)
        reporter.say(f"\n{figures}\n\nreport: {folder.names.report.page}")
    reporter.notes([*filter(None, [gate_sentence(folder.record.gate)]), *faults.lines])


def checkpoints_of(folder: RunFolder, recipe: Recipe) -> Checkpoints:
    """The run's checkpoints, as many as the recipe keeps."""
    return Checkpoints(folder.names.checkpoints, recipe.train.checkpoint.keep)


def make_trainer(
    folder: RunFolder, recipe: Recipe, classifier: Classifier, data: Dataset, reporter: Reporter
) -> Trainer:
    """The trainer at its start, which saves its checkpoints in the run folder."""
    return classifier.trainer(
        data,
        recipe.train,
        augment=recipe.data.augment,
        class_weights=recipe.data.class_weights,
        workers=recipe.data.workers,
        checkpoints=checkpoints_of(folder, recipe),
        **reporter.hooks(),
    )


def restore(trainer: Trainer, folder: RunFolder, state: Mapping[str, Any], changed: bool, reporter: Reporter) -> None:
    """Put the trainer where the checkpoint `state` stopped; `changed`: recipe or images are not as the run began."""
    trainer.network.source = folder.record.source or trainer.network.source
    trainer.network.base = Base.of((folder.record.network or {}).get("base"))
    trainer.restore(state, unchanged=not changed)
    reporter.say(f"resuming at step {state['step']} (epoch {trainer.position.epoch + 1}/{trainer.plan.epochs})")
    reporter.notes([*filter(None, [rate_jump(trainer, state) if changed else ""])])
    usual = choose(
        str(trainer.compute.device), convolutional=trainer.network.convolutional, light=trainer.network.light
    )
    if folder.record.precision == trainer.compute.precision != usual.precision:
        # another precision would lead to other bits than those of the run that was not interrupted
        reporter.say(f"precision stays {trainer.compute.precision}, as the run began ({usual.precision} is usual here)")


def mark_checkpoints(trainer: Trainer, folder: RunFolder, state: Mapping[str, Any] | None) -> None:
    """Let every checkpoint say whose it is, and what the frozen tensors were when the run began.

    Args:
        trainer: about to train.
        folder: of the run.
        state: a checkpoint that already knows the frozen tensors; None to hash them as they are now.
    """
    frozen_tensors = trainer.plan.frozen_tensors()
    trainer.extra = {
        "run": folder.record.id,
        "freeze_before": freeze_hashes(trainer.state(), frozen_tensors) if state is None else state["freeze_before"],
        "classes": trainer.network.classes,
        "architecture": trainer.network.architecture,
    }


def make_trackers(folder: RunFolder, recipe: Recipe, reporter: Reporter) -> Trackers:
    """The trackers that the recipe names."""
    return Trackers(
        recipe.log,
        folder.names,
        run=str(folder.record.id),
        name=recipe.name or "run",
        recipe=folder.record.recipe,
        say=lambda text: reporter.notes([text]),
    )


def train(trainer: Trainer, folder: RunFolder, reporter: Reporter, trackers: Trackers) -> None:
    """Train the epochs that are left; each is in `history.csv` before the next begins."""
    if trainer.position.history:  # a kill between the checkpoint and the file may have left the last epoch out
        folder.write_history(trainer.position.history)
    for record in trainer:
        folder.write_history(trainer.position.history)
        reporter.epoch(record, trainer.plan.epochs)
        trackers.epoch(record)


def evaluate(recipe: Recipe, trainer: Trainer, data: Dataset, reporter: Reporter) -> tuple[Evaluation, str]:
    """Evaluate the best weights on the test images, else on the best that there is; also returns the split's name.

    Without test images a solved head is evaluated by its answers out of fold, because it has learned from the
    validation images, too; any other is evaluated on the validation images, which have chosen its epoch.
    """
    network, compute = trainer.network, trainer.compute.in_fp32()
    split, split_images = data.parts()[-1]
    if split == "val" and trainer.out_of_fold is not None:
        split, split_images = OUT_OF_FOLD, images_of(data, OUT_OF_FOLD)
        paths = [str(path) for path in split_images.table["path"]]
        evaluation = evaluate_logits(network, paths, split_images.labels, trainer.out_of_fold.logits, loss=network.loss)
        return replace(evaluation, cautions=cautions(data.table, split)), split
    # validation images are decoded already, and their frozen features may be cached: both are used again
    images = trainer.val if split == "val" else load_images(split_images, network.preprocess, recipe.data.workers)
    tick = reporter.evaluating(len(images))
    logits = trainer.val_logits(tick) if split == "val" else logits_of(network, images, compute, tick)
    evaluation = evaluate_images(network, images, compute, loss=network.loss, tick=tick, logits=logits)
    return replace(evaluation, cautions=cautions(data.table, split)), split

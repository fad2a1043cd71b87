"""The story of a run: one recipe from start to finish, and on from where it stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finetune.classifier import Classifier
from finetune.data.batches import load_images
from finetune.data.dataset import Dataset
from finetune.data.samples.catalogue import ABOUT, write_sample
from finetune.data.source import class_names as names_of
from finetune.data.source import read_source
from finetune.data.wanted import Wanted
from finetune.deliver.publish import publish_data, publish_decisions, publish_model, publish_report
from finetune.device import choose
from finetune.errors import FinetuneError, UsageError
from finetune.evaluate.judge import Judgement, judge_images
from finetune.model.freeze import freeze_hashes
from finetune.recipe.load import differences, dump, from_mapping, resolve
from finetune.recipe.load import load as load_recipe
from finetune.recipe.schema import Recipe
from finetune.report.tables import per_class_text, plan_text
from finetune.train.checkpoints import Checkpoints
from finetune.train.folder import Clock, RunFolder
from finetune.train.optimizer import accept_any_phase, make_optimizer
from finetune.train.trainer import Trainer
from finetune.train.watch import Watch

if TYPE_CHECKING:
    from torch import nn


def run(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    freeze: Sequence[str] = (),
    watch: Watch | None = None,
) -> Path:
    """Do what a recipe says: read the images, build the network, freeze, train, judge, report.

    Args:
        recipe: a file, a mapping, or one already loaded.
        out: the run folder, absent or empty; by default the next of runs/NAME/001, 002, ….
        overrides: KEY=VALUE each, as `-o` on the command line.
        freeze: layer patterns that never learn.
        watch: who is told; by default a plain line an epoch on stderr.

    Returns:
        The run folder.

    Raises:
        FinetuneError: of the kind that says what is wrong; what was good until then is kept in the folder.
    """
    recipe = prepare(recipe, overrides)
    watch = watch or Watch()
    choose(recipe.train.device, recipe.train.precision)
    folder = RunFolder.create(Path(out) if out is not None else None, recipe.name or "run")
    with folder.recording():
        folder.record["freeze"] = list(freeze)
        folder.write_recipe(dump(recipe), recipe.model_dump(mode="json"))
        _work(folder, recipe, watch)
    return folder.path


def resume(
    run: str | Path,
    *,
    checkpoint: str | Path | None = None,
    data: str | Path | None = None,
    accept_changes: bool = False,
    watch: Watch | None = None,
) -> Path:
    """Go on with a run from its newest whole checkpoint, to the same bits as if it had never stopped.

    Args:
        run: its folder.
        checkpoint: go on from this one instead.
        data: the data folder, if it has moved; its content must be the same.
        accept_changes: go on although recipe or data have changed since.
        watch: who is told.

    Raises:
        UsageError: no such run, or a changed recipe. DataError: changed data. ArtefactError: no whole checkpoint, or
            one of another run.
    """
    watch = watch or Watch()
    folder = RunFolder.open(Path(run))
    recipe, changes = _recipe_of(folder, data)
    if folder.record.get("status") == "finished" and not changes and checkpoint is None:
        watch.say(f"{folder.path} is finished already: nothing to do")
        return folder.path
    if changes and not accept_changes:
        raise UsageError(
            [f"{folder.recipe}: {line}" for line in changes],
            "put the recipe back as it was, or go on with the change: finetune resume --accept-changes",
        )
    folder.lock()
    try:
        state = _checkpoints(folder, recipe).latest(watch.say, checkpoint)
        folder.require_own(state, checkpoint)
    except FinetuneError:
        folder.unlock()
        raise
    if state is None:
        watch.say("no checkpoint yet: starting over")
    with folder.recording():
        folder.write_recipe(dump(recipe), recipe.model_dump(mode="json"))
        _work(folder, recipe, watch, state, accept_changes)
    return folder.path


def prepare(recipe: Recipe | Mapping[str, Any] | str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The resolved recipe: checked, with absolute paths and a name."""
    if isinstance(recipe, (str, Path)):
        loaded = load_recipe(Path(recipe), overrides)
    elif isinstance(recipe, Mapping):
        loaded = from_mapping(recipe, "recipe", overrides)
    else:
        loaded = from_mapping(recipe.model_dump(), "recipe", overrides) if overrides else recipe
    return resolve(loaded, Path.cwd())


def _work(
    folder: RunFolder,
    recipe: Recipe,
    watch: Watch,
    state: Mapping[str, Any] | None = None,
    accept_changes: bool = False,
) -> None:
    """Everything between making the folder and its last file."""
    clock = Clock()
    data = read_data(recipe, watch)
    moved_on = publish_data(folder, data, accept_changes) or accept_changes
    clock.lap("scan")
    saved = None if state is None else folder.record
    classifier = Classifier.from_recipe(recipe, data.classes, folder.record.get("freeze", ()), run=saved)
    trainer = _make_trainer(folder, recipe, classifier, data, watch, state, moved_on)
    clock.lap("build")
    if trainer.position.history:  # the checkpoint knows of epochs that a kill kept out of the file
        folder.write_history(trainer.position.history)
    for record in trainer:
        folder.write_history(trainer.position.history)
        watch.epoch(record, recipe.train.epochs)
    clock.lap("train")
    publish_model(folder, classifier.network, trainer)
    watch.best(trainer.position.best, trainer.settings.select)
    judgement, split = _judge(recipe, trainer, data, watch)
    clock.lap("judge")
    folder.update(timings=clock.laps)
    watch.notes(publish_report(folder, classifier.network, trainer, data, judgement, split))
    watch.say(f"\n{per_class_text(judgement.metrics)}\n\nreport: {folder.report / 'report.html'}")


def read_data(recipe: Recipe, watch: Watch, draw: bool = True) -> Dataset:
    """The recipe's images with their split, its sample written first where that is what it asks for."""
    section, folder = recipe.data, None if recipe.data.folder is None else Path(recipe.data.folder)
    if draw and section.sample is not None and folder is not None and not folder.exists():
        watch.say(f"{folder} is not there: writing the sample '{section.sample}' into it. {ABOUT[section.sample]}")
        watch.say("For your own photographs: one folder per class, -o data.folder=FOLDER")
        write_sample(section.sample, folder)
    data = read_source(
        section.source,
        folder,
        Wanted.of(section.model_dump()),
        section.positive,
        tick=watch.reading("reading images", "reading the images; nothing to save yet"),
        workers=section.workers,
    )
    watch.notes([*data.notes, *data.left_out, *data.warnings])
    parts = [f"{len(part)} {name}" for name, part in data.parts()]
    watch.say(f"{len(data.table)} images of {len(data.classes)} classes: {', '.join(parts)}")
    return data


def class_names(recipe: Recipe) -> list[str]:
    """The classes of the recipe's images, without reading one."""
    section, folder = recipe.data, None if recipe.data.folder is None else Path(recipe.data.folder)
    return names_of(section.source, folder, Wanted.of(section.model_dump()), section.positive, section.sample)


def _make_trainer(
    folder: RunFolder,
    recipe: Recipe,
    classifier: Classifier,
    data: Dataset,
    watch: Watch,
    state: Mapping[str, Any] | None,
    changed: bool,
) -> Trainer:
    """The trainer, at the start or where the checkpoint `state` stopped; the plan is shown and published."""
    trainer = classifier.trainer(
        data,
        recipe.train,
        augment=recipe.data.augment,
        class_weights=recipe.data.class_weights,
        workers=recipe.data.workers,
        checkpoints=_checkpoints(folder, recipe),
        stop=watch.stop,
        tick=watch.step,
        say=watch.say,
    )
    frozen = trainer.plan.frozen_tensors()
    if state is not None:
        classifier.network.source = folder.record.get("source", classifier.network.source)
        trainer.restore(state, unchanged=not changed)
        watch.say(f"going on from step {state['step']} (epoch {trainer.position.epoch})")
    before = freeze_hashes(trainer.state(), frozen) if state is None or changed else state["freeze_before"]
    trainer.extra = {
        "run": folder.record.get("id"),
        "freeze_before": before,
        "classes": data.classes,
        "architecture": classifier.network.architecture,
    }
    columns, rows = trainer.plan.table()
    watch.say(f"\n{plan_text(columns, rows)}\n")
    watch.notes([*trainer.plan.warnings, *classifier.network.notes])
    folder.write_plan(columns, rows)
    folder.warn(*trainer.plan.warnings, *classifier.network.notes)
    resolved = _resolved(recipe, classifier, data, trainer)
    folder.write_recipe(dump(resolved), resolved.model_dump(mode="json"))
    publish_decisions(folder, classifier.network, trainer)
    return trainer


def _resolved(recipe: Recipe, classifier: Classifier, data: Dataset, trainer: Trainer) -> Recipe:
    """The recipe with all written out that was left to be decided."""
    settings, plan = trainer.settings, trainer.plan
    images = {"folder": recipe.data.folder or str(data.root), "workers": trainer.train.workers}
    unfreeze = plan.as_unfreeze() if classifier.freeze else classifier.unfreeze
    model = {"backbone": classifier.network.backbone or recipe.model.backbone, "unfreeze": unfreeze}
    rates = [rate for group, rate in plan.rates.items() if group != "head"]
    train = {
        "backbone_lr": max(rates, default=recipe.train.lr),
        "warmup_epochs": settings.warmup_epochs,
        "batchnorm": settings.batchnorm,
        "loss": settings.loss,
    }
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update=images),
            "model": recipe.model.model_copy(update=model | {"in_chans": classifier.network.in_chans}),
            "train": recipe.train.model_copy(update=train),
        }
    )


def _checkpoints(folder: RunFolder, recipe: Recipe) -> Checkpoints:
    return Checkpoints(folder.checkpoints, recipe.train.checkpoint.keep)


def _recipe_of(folder: RunFolder, data: str | Path | None) -> tuple[Recipe, list[str]]:
    """The run's recipe as it is now, and what was changed in it by hand."""
    # read again, so that keys that came since have their default; a crash may have left the recipe before the last one
    known = [folder.record.get(name) for name in ("recipe", "recipe_before")]
    began_with, *before = [from_mapping(values, str(folder.run_json)) for values in known if values]
    recipe = load_recipe(folder.recipe) if folder.recipe.exists() else began_with
    changes = [] if recipe in before else differences(began_with.model_dump(), recipe.model_dump())
    if data is not None:
        moved = recipe.data.model_copy(update={"folder": str(Path(data).resolve())})
        recipe = recipe.model_copy(update={"data": moved})
    return recipe, changes


def open_run(run: str | Path) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The network and the optimizer of a run, as its newest checkpoint left them.

    Both take what any of the run's checkpoints holds: `model.load_state_dict(checkpoint["model_state_dict"])`,
    `optimizer.load_state_dict(checkpoint["optimizer_state_dict"])`.
    """
    folder = RunFolder.open(Path(run))
    recipe, record = _recipe_of(folder, None)[0], folder.record
    classifier = Classifier.from_recipe(recipe, record["classes"], record.get("freeze", ()), run=record)
    train, module = recipe.train, classifier.network.module
    plan = classifier.plan(**train.model_dump())
    state = _checkpoints(folder, recipe).latest(Watch().say)
    phase = plan.phases[state["phase"]] if state else plan.phases[0]
    kind = state.get("optimizer", train.optimizer) if state else train.optimizer
    optimizer = make_optimizer(module, plan, phase, kind, weight_decay=train.weight_decay, momentum=train.momentum)
    accept_any_phase(optimizer, module)
    if state:
        module.load_state_dict(state["model_state_dict"])
        optimizer.load_state_dict(state["optimizer_state_dict"])
    return module, optimizer


def _judge(recipe: Recipe, trainer: Trainer, data: Dataset, watch: Watch) -> tuple[Judgement, str]:
    network, compute = trainer.network, trainer.compute.in_fp32()
    split, part = data.parts()[-1]
    # of validation, the pictures are decoded already, and perhaps the work of the frozen layers is done
    images = trainer.val if split == "val" else load_images(part, network.preprocess, recipe.data.workers)
    tick = watch.judging(len(images))
    logits = trainer.answers(tick) if split == "val" else None
    judged = judge_images(network, images, compute, loss=network.loss, seed=recipe.seed, tick=tick, logits=logits)
    return judged, split

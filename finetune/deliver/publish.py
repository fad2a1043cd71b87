"""Publishes the files of a run: the table of images, the decisions, the model with the freeze proof, the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune.data.batches import load_images
from finetune.data.dataset import Dataset, ImageSet
from finetune.data.manifest import changes, write_manifest
from finetune.data.samples.catalogue import is_drawn
from finetune.deliver.card import Facts, write_card
from finetune.deliver.heats import heats_of
from finetune.deliver.image_map import draw_map, thumbnails_of
from finetune.device import versions
from finetune.errors import DataError, called
from finetune.evaluate.activations import example
from finetune.evaluate.coverage import TARGET
from finetune.evaluate.evaluation import OUT_OF_FOLD, Evaluation
from finetune.evaluate.grouping import grouping
from finetune.evaluate.learning_curve import learning_curve
from finetune.model.bundle import save_bundle
from finetune.model.freeze import freeze_hashes, freeze_proof
from finetune.model.lineage import short_path
from finetune.model.network import Network
from finetune.model.stages import feature_groups, read_last, reads_only_last
from finetune.model.weights import tensors_sha256
from finetune.report.faults import Faults
from finetune.report.files import data_summary, write_report
from finetune.runs.folder import RunFolder
from finetune.runs.record import RunRecord
from finetune.train.folds import same_things
from finetune.train.state import early_ends
from finetune.train.trainer import Trainer


def publish_data(folder: RunFolder, data: Dataset, accept_changes: bool) -> bool:
    """Publish `data.csv`; whether the images are no longer those that the run began with.

    Raises:
        DataError: they are not, and that was not accepted.
    """
    changed = changes(folder.names.data_csv, data.table)
    if changed and not accept_changes:
        change = called("finetune resume --accept-changes", "ft.resume(run, accept_changes=True)")
        remedy = f"put the images back, or go on with the change: {change}"
        raise DataError([f"{data.root}: {line}" for line in changed], remedy)
    folder.warn(*data.warnings)
    if is_drawn(data.root):
        folder.warn("the images are drawn, not photographs: a demonstration, no measure of what the network can do")
    write_manifest(folder.names.data_csv, data.table)
    folder.update(classes=data.classes, notes=[*data.notes, *data.left_out], versions=versions())
    return bool(changed)


def publish_plan(folder: RunFolder, trainer: Trainer) -> None:
    """Publish `plan.csv`, and note what is worth knowing about the plan and the weights."""
    folder.write_plan(*trainer.plan.table())
    folder.warn(*trainer.plan.warnings, *trainer.network.notes)


def publish_decisions(folder: RunFolder, trainer: Trainer) -> None:
    """Say in run.json what was decided where the recipe left it open."""
    compute, network = trainer.compute, trainer.network
    folder.update(
        device=str(compute.device),
        precision=compute.precision,
        precision_reason=compute.reason,
        speed=compute.speed,
        batchnorm=trainer.settings.batchnorm,
        source=network.source,
        network={
            "asked": _asked(folder.record.recipe["model"]),
            "architecture": network.architecture,
            "options": network.options,
            "preprocess": network.preprocess.as_dict(),
            "pretrained": network.pretrained,
            "base": network.base.as_dict() if network.base else None,
        },
    )


def as_it_was(record: RunRecord, model: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a recipe's `model` section by which a run's network is built again for its checkpoints.

    Its backbone may lie elsewhere by now, or be another one. Empty where `run.json` does not say, or where the recipe
    has come to ask for something else.

    Args:
        record: of the run.
        model: the section, as JSON holds it.
    """
    built = record.network
    if not built or built["asked"] != _asked(model):
        return {}
    kept = {"backbone": built["architecture"], "options": built["options"], "preprocess": built["preprocess"]}
    return {**kept, "weights": "of a checkpoint" if built["pretrained"] else "none"}


def _asked(model: Mapping[str, Any]) -> dict[str, Any]:
    return {key: model[key] for key in ("backbone", "weights", "options", "preprocess")}


def publish_model(folder: RunFolder, trainer: Trainer) -> None:
    """Load the best weights into the network, prove what stayed frozen, write the bundle."""
    state, network = trainer.best_state(), trainer.network
    network.module.load_state_dict(state)
    trainer.position.put_into(network)
    network.threshold = _threshold(folder, network)
    # the solver chose the last output alone: the head is given the plain shape, so that it loads anywhere
    if network.choose_features and reads_only_last(network):
        read_last(network)
        state = trainer.state()
    proof = freeze_proof(trainer.extra["freeze_before"], freeze_hashes(state, trainer.plan.frozen_tensors()))
    broken = [group for group, pair in proof.items() if pair["sha256_before"] != pair["sha256_after"]]
    if broken:
        # a bug of ours, whatever the recipe says: a network that breaks the promise is not published
        raise AssertionError(f"frozen layers changed during training: {broken}")
    folder.update(
        weights_sha256=tensors_sha256(state),
        freeze_proof=proof,
        best=trainer.position.best,
        stopped_early=early_ends(trainer.position, trainer.settings) or None,
        gate=trainer.position.gate,
        features=feature_groups(network),
        temperature=network.temperature,
        threshold=network.threshold,
        cache=trainer.stats.as_dict(),
    )
    recipe = folder.record.recipe
    lineage = {"backbone": recipe["model"]["backbone"], "source": network.source, "recipe": recipe["name"]}
    save_bundle(folder.names.model, network, lineage)


def _threshold(folder: RunFolder, network: Network) -> float | None:
    """The confidence threshold that the recipe's `report.threshold` asks for."""
    asked = folder.record.recipe.get("report", {}).get("threshold")
    if asked != "auto":
        return None if asked is None else float(asked)
    if network.auto_threshold is None:
        folder.warn(
            f"report.threshold: at no confidence are {TARGET:.0%} of the answers on validation right: none is set"
        )
    return network.auto_threshold


def images_of(data: Dataset, split: str) -> ImageSet:
    """The images of a split; those of `out_of_fold` are the training images and then those of validation."""
    if split != OUT_OF_FOLD:
        return dict(data.parts())[split]
    both = np.concatenate([np.flatnonzero(data.table["split"] == name) for name in ("train", "val")])
    pixels = None if data.pixels is None else data.pixels[both]
    return ImageSet(data.root, data.table.iloc[both], data.classes, pixels)


def publish_report(folder: RunFolder, trainer: Trainer, data: Dataset, evaluation: Evaluation, split: str) -> list[str]:
    """Write the report folder, and the headline into run.json.

    Returns:
        What of the report could not be made, one line each: no fault of a picture or page makes a run fail.
    """
    metrics, recipe, images = evaluation.metrics, folder.record.recipe, images_of(data, split)
    network = trainer.network
    if split == "val":
        folder.warn("there is no test split: the figures are of val, which also chose the epoch, so they flatter")
    folder.warn(*(trainer.checkpoints.warnings if trainer.checkpoints else ()))
    folder.update(metrics={"split": split, "accuracy": metrics.accuracy, "macro_f1": metrics.macro_f1})
    about = {
        **folder.record.as_dict(),
        "name": recipe["name"],
        "backbone": short_path(recipe["model"]["backbone"]).removesuffix(".yaml"),
        "best_epoch": (trainer.position.best or {}).get("epoch"),
        "seed": recipe["seed"],
        "folder": str(folder.path),
        "data": data_summary(data.table, str(data.root), data.notes, data.bad),
    }
    faults, pixels = Faults(), load_images(images, network.preprocess)
    passage = None
    with faults.tolerate("features.png"):
        passage = example(network, pixels, evaluation, trainer.compute.in_fp32())
    image_map = None
    with faults.tolerate("the map of the images"):
        image_map = draw_map(network, pixels, evaluation, trainer.compute.in_fp32())
    curve, random_split = None, None
    with faults.tolerate("the learning curve"):
        curve = _learning_curve(trainer)
    with faults.tolerate("the score of a random split"):
        random_split = _grouping(trainer)
    faults.lines += write_report(
        folder.names.report.folder,
        split=split,
        selected_on=split == "val",
        metrics=metrics,
        predictions=(evaluation.paths, evaluation.labels, evaluation.probabilities),
        classes=network.classes,
        history=trainer.position.history,
        plan=trainer.plan.table(),
        run=about,
        cautions=evaluation.cautions,
        thumbnails=lambda places: thumbnails_of(pixels, places),
        heats=lambda places: heats_of(network, pixels, evaluation, places, trainer.compute.in_fp32()),
        passage=passage,
        map_of_images=image_map,
        learning_curve=curve,
        grouping=random_split,
    )
    with faults.tolerate("the model card"):
        publish_card(folder, trainer, data, metrics.as_dict(split))
    folder.warn(*faults.lines)
    return faults.lines


def _learning_curve(trainer: Trainer) -> dict[str, Any] | None:
    """How good the head is by the number of images it learns from; None where there is no curve."""
    answers = trainer.out_of_fold
    if answers is None or answers.by_size is None:
        return None
    labels = np.concatenate([trainer.train.labels, trainer.val.labels])
    return learning_curve(labels, answers.sizes, answers.by_size, trainer.network.classes)


def _grouping(trainer: Trainer) -> dict[str, Any] | None:
    """What it changes that groups stay together; None where there are none, or no answers out of fold."""
    answers = trainer.out_of_fold
    if answers is None or answers.random is None:
        return None
    groups = same_things([*trainer.train.units, *trainer.val.units])
    if len(np.unique(groups)) < 2:
        return None
    labels = np.concatenate([trainer.train.labels, trainer.val.labels])
    return grouping(labels, groups, answers.logits.argmax(axis=1), answers.random)


def publish_card(folder: RunFolder, trainer: Trainer, data: Dataset, metrics: Mapping[str, Any]) -> None:
    """Write the model card into the bundle."""
    record = folder.record
    facts = Facts(
        name=str(record.recipe["name"]),
        images=data.table,
        metrics=metrics,
        recipe=record.recipe,
        best=trainer.position.best,
        warnings=record.warnings,
        versions=record.versions or {},
    )
    write_card(folder.names.model, trainer.network, facts)

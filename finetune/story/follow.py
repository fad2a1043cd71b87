"""A run in several processes: what rank 0 tells the others, and what they do while it writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.classifier import Classifier
from finetune.data.batches import load_images
from finetune.data.dataset import Dataset
from finetune.device import versions
from finetune.distributed.ranks import here
from finetune.recipe.load import from_mapping
from finetune.recipe.schema import Recipe
from finetune.runs.folder import RunFolder
from finetune.runs.record import RunRecord
from finetune.runs.reporter import Reporter, no_progress
from finetune.story.images import read_images
from finetune.story.result import Run
from finetune.train.together import logits_of
from finetune.train.trainer import Trainer


def tell_the_others(folder: RunFolder, recipe: Recipe, state: Mapping[str, Any] | None) -> None:
    """What the other ranks need to do the same work: see `follow`."""
    here().send(
        {
            "folder": str(folder.path),
            "recipe": recipe.model_dump_json(),
            "record": json.dumps(folder.record.as_dict()),
            "state": None if state is None else dict(state),
        }
    )


def follow(recipe: Recipe | None, reporter: Reporter) -> Run:
    """Read, build and train as rank 0 does, and write nothing.

    Args:
        recipe: that this rank was given; None where it goes by that of rank 0, which resumes a run.
        reporter: is only asked whether to stop.

    Raises:
        UsageError: another recipe, other images or other versions than those of rank 0.
        LostRank: another rank has ended.
    """
    told = here().send()
    own, recipe = recipe, from_mapping(json.loads(told["recipe"]), "the recipe of rank 0")
    record = RunRecord.of(json.loads(told["record"]))
    quiet = Reporter(say=lambda text: None, progress=no_progress, stop=reporter.stop)
    with here().one_first():
        data = read_images(recipe, quiet)
    require_same(own or recipe, data)
    with here().one_first():
        classifier = Classifier.from_recipe(
            recipe, data.classes, record.freeze, run=None if told["state"] is None else record
        )
    trainer = classifier.trainer(
        data,
        recipe.train,
        augment=recipe.data.augment,
        class_weights=recipe.data.class_weights,
        workers=recipe.data.workers,
        stop=quiet.stop,
    )
    if told["state"] is not None:
        trainer.restore(told["state"])
    for _ in trainer:
        pass
    help_evaluate(trainer, data, recipe)
    return Run(Path(told["folder"]))


def help_evaluate(trainer: Trainer, data: Dataset, recipe: Recipe) -> None:
    """Answer this rank's share of the test images, for rank 0 to measure."""
    split, part = data.parts()[-1]
    if split != "val":  # validation images are answered out of what rank 0 knows of them
        images = load_images(part, trainer.network.preprocess, recipe.data.workers)
        logits_of(trainer.network, images, trainer.compute.in_fp32())


def require_same(recipe: Recipe, data: Dataset) -> None:
    """Refuse a rank that was given another recipe or other images, or that runs other versions, than rank 0."""
    here().require_same(
        "give every process the same recipe, the same images and the same installation",
        recipe=recipe.model_dump_json(),
        images=data.table[["path", "class", "split", "sha256"]].to_csv(index=False),
        versions=json.dumps(versions(), sort_keys=True),
    )

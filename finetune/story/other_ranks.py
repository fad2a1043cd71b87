"""A run in several processes: what rank 0 sends to the other ranks, and what those do.

Rank 0 runs `finetune.story.run.carry_out`, with all that is written and said. Every other rank reads the same images,
builds the same network and trains it, and writes nothing. Both must ask for each other in the same order (`broadcast`,
`local_main_first`, `require_same`): a step added to one of the two files and not to the other leaves ranks waiting.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.classifier import Classifier
from finetune.data.batches import load_images
from finetune.data.dataset import Dataset
from finetune.device import versions
from finetune.distributed.ranks import this_rank
from finetune.recipe.load import from_mapping
from finetune.recipe.schema import Recipe
from finetune.runs.folder import RunFolder
from finetune.runs.record import RunRecord
from finetune.runs.reporter import Reporter, no_progress
from finetune.story.images import read_images
from finetune.story.result import Run
from finetune.train.across_ranks import logits_of
from finetune.train.trainer import Trainer


def send_run_to_ranks(folder: RunFolder, recipe: Recipe, state: Mapping[str, Any] | None) -> None:
    """Send what the other ranks need for the same work; `run_as_other_rank` receives it."""
    this_rank().broadcast(
        {
            "folder": str(folder.path),
            "recipe": recipe.model_dump_json(),
            "record": json.dumps(folder.record.as_dict()),
            "state": None if state is None else dict(state),
        }
    )


def run_as_other_rank(recipe: Recipe | None, reporter: Reporter) -> Run:
    """Read, build and train as rank 0 does, and write nothing.

    Args:
        recipe: the one this rank was given; None where rank 0 resumes a run and sends its recipe.
        reporter: only asked whether to stop.

    Raises:
        UsageError: another recipe, other images or other versions than those of rank 0.
        LostRank: another rank has ended.
    """
    run = this_rank().broadcast()
    own_recipe, recipe = recipe, from_mapping(json.loads(run["recipe"]), "the recipe of rank 0")
    record = RunRecord.of(json.loads(run["record"]))
    quiet = Reporter(say=lambda text: None, progress=no_progress, stop=reporter.stop)
    with this_rank().local_main_first():
        data = read_images(recipe, quiet)
    require_same(own_recipe or recipe, data)
    with this_rank().local_main_first():
        classifier = Classifier.from_recipe(
            recipe, data.classes, record.freeze, run=None if run["state"] is None else record
        )
    trainer = classifier.trainer(
        data,
        recipe.train,
        augment=recipe.data.augment,
        class_weights=recipe.data.class_weights,
        workers=recipe.data.workers,
        stop=quiet.stop,
    )
    if run["state"] is not None:
        trainer.restore(run["state"])
    for _ in trainer:
        pass
    help_evaluate(trainer, data, recipe)
    return Run(Path(run["folder"]))


def help_evaluate(trainer: Trainer, data: Dataset, recipe: Recipe) -> None:
    """Answer this rank's share of the test images, for rank 0 to measure."""
    split, part = data.parts()[-1]
    if split != "val":  # validation images are answered out of what rank 0 knows of them
        images = load_images(part, trainer.network.preprocess, recipe.data.workers)
        logits_of(trainer.network, images, trainer.compute.in_fp32())


def require_same(recipe: Recipe, data: Dataset) -> None:
    """Refuse a rank that was given another recipe or other images, or that runs other versions, than rank 0."""
    this_rank().require_same(
        "give every process the same recipe, the same images and the same installation",
        recipe=recipe.model_dump_json(),
        images=data.table[["path", "class", "split", "sha256"]].to_csv(index=False),
        versions=json.dumps(versions(), sort_keys=True),
    )

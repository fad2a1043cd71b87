"""The recipe of a run: checked, saved, compared with what the run began with, completed with what was decided."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.classifier import Classifier
from finetune.classifier.accept import path_of
from finetune.data.dataset import Dataset
from finetune.errors import UsageError
from finetune.recipe.load import differences, dump, from_mapping, resolve
from finetune.recipe.load import load as load_recipe
from finetune.recipe.schema import Recipe
from finetune.runs.folder import RunFolder
from finetune.train.trainer import Trainer


def prepare(recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """The resolved recipe: checked, with absolute paths and a name."""
    if isinstance(recipe, str | os.PathLike):
        loaded = load_recipe(path_of(recipe, "recipe"), overrides)
    elif isinstance(recipe, Mapping):
        loaded = from_mapping(recipe, "recipe", overrides)
    elif not isinstance(recipe, Recipe):
        raise UsageError(f"recipe: {recipe!r} is not a recipe", "give the path of a YAML file, or a mapping of keys")
    else:
        loaded = from_mapping(recipe.model_dump(), "recipe", overrides) if overrides else recipe
    return resolve(loaded, Path.cwd())


def save_recipe(folder: RunFolder, recipe: Recipe) -> None:
    """Publish a run's recipe, and note in its record what it says."""
    folder.write_recipe(dump(recipe), recipe.model_dump(mode="json"))


def saved_recipe(folder: RunFolder, data: str | os.PathLike[str] | None = None) -> tuple[Recipe, list[str]]:
    """The run's recipe as it is now, and what was changed in it by hand, one line a key.

    Args:
        folder: of the run.
        data: where its images are now, if they have moved.
    """
    # read again, so that keys that came since have their default; a crash may have left the recipe before the last one
    recorded = [folder.record.recipe, folder.record.recipe_before]
    began_with, *earlier = [from_mapping(values, str(folder.names.run_json)) for values in recorded if values]
    recipe = load_recipe(folder.names.recipe) if folder.names.recipe.exists() else began_with
    changes = [] if recipe in earlier else differences(began_with.model_dump(), recipe.model_dump())
    if data is not None:
        moved = recipe.data.model_copy(update={"folder": str(path_of(data, "data").resolve())})
        recipe = recipe.model_copy(update={"data": moved})
    return recipe, changes


def with_decisions(recipe: Recipe, classifier: Classifier, data: Dataset, trainer: Trainer) -> Recipe:
    """The recipe with everything written out that it left to be decided."""
    settings, plan = trainer.settings, trainer.plan
    images = {"folder": recipe.data.folder or str(data.root), "workers": trainer.train.workers}
    images |= {"range": data.decoding.range or recipe.data.range}
    unfreeze = plan.as_unfreeze() if classifier.freeze else classifier.unfreeze
    model = {"backbone": classifier.network.backbone or recipe.model.backbone, "unfreeze": unfreeze}
    # the rates of the groups fall from the last one down, so the largest is what `backbone_lr` was decided to be
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

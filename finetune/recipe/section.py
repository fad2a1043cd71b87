"""One section of a recipe by itself, for scripts that have no whole one."""

from __future__ import annotations

from typing import Any

from finetune.errors import UsageError, did_you_mean
from finetune.recipe.load import from_mapping
from finetune.recipe.schema import TrainConfig

FIT_KEYS = ("augment", "class_weights", "workers", "reporter", "epochs")
"""What `Classifier.fit` takes besides the keys of `train`."""


def train_config(**values: Any) -> TrainConfig:
    """A checked `train` section, given as arguments.

    Raises:
        UsageError: unknown arguments or wrong values, all at once; the names are those of arguments.
    """
    known = TrainConfig.model_fields
    if unknown := [name for name in values if name not in known]:
        lines = [f"{name}: unknown argument{did_you_mean(name, [*known, *FIT_KEYS])}" for name in unknown]
        raise UsageError(lines, f"the keys of a recipe's train section are understood: {', '.join(known)}")
    whole = {"data": {"folder": "."}, "model": {"backbone": "timm/any"}, "train": values}
    try:
        return from_mapping(whole, "fit").train
    except UsageError as error:
        problems = [problem.removeprefix("fit: ").removeprefix("train.") for problem in error.problems]
        raise UsageError(
            problems, "give values as a recipe's train section has them; docs/recipe.md lists them"
        ) from error

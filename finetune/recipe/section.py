"""One section of a recipe by itself, for scripts that have no whole one."""

from __future__ import annotations

from typing import Any

from finetune.recipe.load import from_mapping
from finetune.recipe.schema import TrainConfig


def train_config(**values: Any) -> TrainConfig:
    """A checked `train` section.

    Raises:
        UsageError: unknown keys or wrong values, all at once.
    """
    whole = {"data": {"folder": "."}, "model": {"backbone": "timm/any"}, "train": values}
    return from_mapping(whole, "fit").train

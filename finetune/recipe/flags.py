"""What the command line's flags add to a recipe."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.errors import UsageError
from finetune.recipe.schema import Recipe


def overrides_of(epochs: int | None, seed: int | None, device: str | None, given: Sequence[str]) -> list[str]:
    """`--epochs`, `--seed` and `--device` as the KEY=VALUE that they stand for, after those of `-o`."""
    flags = {"train.epochs": epochs, "seed": seed, "train.device": device}
    return [*given, *(f"{key}={value}" for key, value in flags.items() if value is not None)]


def from_scratch(recipe: Recipe) -> bool:
    """Whether the network starts without having learned anything."""
    small = recipe.model.backbone.startswith("small/") and recipe.model.weights == "default"
    return recipe.model.weights == "none" or small


def with_unfreeze(recipe: Recipe, flags: Sequence[str]) -> Recipe:
    """The recipe with each PATTERN[@EPOCH] added to its `unfreeze` map (epoch 0 if left out).

    Raises:
        UsageError: an epoch that is no whole number from 0.
    """
    if not flags:
        return recipe
    default = {"all": 0} if from_scratch(recipe) else {"head": 0}
    thaw = dict(recipe.model.unfreeze if recipe.model.unfreeze is not None else default)
    for flag in flags:
        pattern, at, epoch = flag.rpartition("@")
        if not at:
            pattern, epoch = flag, "0"
        if not pattern or not (epoch.isascii() and epoch.isdigit()):
            raise UsageError(f"--unfreeze {flag}: expected PATTERN or PATTERN@EPOCH", "as in --unfreeze layer4@3")
        thaw[pattern] = int(epoch)
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"unfreeze": thaw})})

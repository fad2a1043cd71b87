"""Adds the command line's flags to a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from finetune.errors import UsageError
from finetune.recipe.schema import Recipe
from finetune.recipe.yaml import inline

TUNED = "last:2"
"""What `--tune` lets learn after the head."""

TUNING = {
    "train.optimizer": "auto",
    "train.gate": "paired",
    "train.lr": "1e-4",
    "train.backbone_lr": "3e-4",
    "train.batchnorm": "keep",
}
"""What else `--tune` stands for: a solved head first, then low rates, the better of both (docs/log/tune.md)."""

MOST_EPOCHS, FEWEST_EPOCHS, PASSES = 10, 2, 20_000
"""Of tuning: the time limit is one of work, images times epochs. One of minutes would end two runs differently."""

DEFAULT = "default"
"""In an `unfreeze` map: what learns where the recipe says nothing, which only the network can tell."""


def overrides_of(
    epochs: int | None, seed: int | None, device: str | None, backbone: str | None, given: Sequence[str]
) -> list[str]:
    """`--epochs`, `--seed`, `--device` and `--backbone` as the KEY=VALUE they stand for, after those of `-o`."""
    quoted = None if backbone is None else inline(backbone)
    flags = {"train.epochs": epochs, "seed": seed, "train.device": device, "model.backbone": quoted}
    return [*given, *(f"{key}={value}" for key, value in flags.items() if value is not None)]


def tuning_overrides(recipe: Recipe, images: int) -> list[str]:
    """`--tune` as the KEY=VALUE it stands for: those of `-o` come after them, and win.

    Args:
        recipe: as it is without the flag.
        images: about how many it is trained on.

    Raises:
        UsageError: the recipe says itself what learns besides the head.
    """
    unfreeze = recipe.model.unfreeze
    if unfreeze is not None and unfreeze != {"head": 0}:
        raise UsageError(
            f"--tune: stands for a model.unfreeze, and there is one already: {inline(unfreeze)}",
            "leave out --tune; -o train.gate=paired keeps the better of the solved head and what is trained after it",
        )
    epochs = max(FEWEST_EPOCHS, min(MOST_EPOCHS, PASSES // max(1, images)))
    values = {"model.unfreeze": inline({"head": 0, TUNED: 1}), "train.epochs": str(1 + epochs), **TUNING}
    return [f"{key}={value}" for key, value in values.items()]


def with_unfreeze(recipe: Recipe, flags: Sequence[str]) -> Recipe:
    """The recipe with each PATTERN[@EPOCH] added to its `unfreeze` map (epoch 0 if left out).

    Raises:
        UsageError: an epoch that is no whole number from 0.
    """
    if not flags:
        return recipe
    thaw = dict(recipe.model.unfreeze if recipe.model.unfreeze is not None else {DEFAULT: 0})
    for flag in flags:
        pattern, at, epoch = flag.rpartition("@")
        if not at:
            pattern, epoch = flag, "0"
        if not pattern or not (epoch.isascii() and epoch.isdigit()):
            raise UsageError(f"--unfreeze {flag}: expected PATTERN or PATTERN@EPOCH", "as in --unfreeze layer4@3")
        thaw[pattern] = int(epoch)
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"unfreeze": thaw})})


def with_default(unfreeze: Mapping[str, int] | None, default: Mapping[str, int]) -> dict[str, int]:
    """An `unfreeze` map in which what learns by default stands for `DEFAULT`, or for a map that is not given."""
    if unfreeze is None:
        return dict(default)
    given = {pattern: epoch for pattern, epoch in unfreeze.items() if pattern != DEFAULT}
    return {**(default if DEFAULT in unfreeze else {}), **given}

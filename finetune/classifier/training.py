"""From split images and a recipe's `train` section to a trainer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from finetune.errors import ArtefactError, DataError, UsageError, setting
from finetune.recipe.schema import TrainConfig

if TYPE_CHECKING:
    from finetune.data.dataset import Dataset
    from finetune.device import Compute
    from finetune.model.network import Network
    from finetune.model.plan import FreezePlan
    from finetune.train.trainer import Trainer


def require_split(data: Dataset, classes: list[str]) -> None:
    """Refuse what cannot be trained on.

    Raises:
        UsageError: it is not split. DataError: its classes are others.
    """
    if not (hasattr(data, "train") and hasattr(data, "val")):
        raise UsageError(f"data: {type(data).__name__} has no train and val", "give ImageFolder(…).split(…)")
    if list(data.classes) != classes:
        problem = f"{data.root}: its classes {data.classes} are not the classifier's {classes}"
        raise DataError(problem, "make the classifier with classes=data.classes")


def freeze_plan(
    network: Network, unfreeze: Mapping[str, int], freeze: Sequence[str], train: TrainConfig, allow_random: bool
) -> FreezePlan:
    """The freeze plan of a network, checked against random frozen layers.

    Args:
        network: gives the layer groups.
        unfreeze: layer pattern → epoch at which it starts to learn.
        freeze: layer patterns that never learn.
        train: gives the epochs and the rates.
        allow_random: layers that have learned nothing may stay frozen.

    Raises:
        UsageError, ArtefactError: see `make_plan` and `require_learned`.
    """
    from finetune.model.plan import make_plan
    from finetune.train.decide import backbone_lr

    plan = make_plan(
        network.groups,
        network.parameters,
        unfreeze=unfreeze,
        freeze=freeze,
        epochs=train.epochs,
        lr=train.lr,
        backbone_lr=backbone_lr(train.model_dump(), network.pretrained),
        layer_decay=train.layer_decay,
    )
    if not allow_random:
        require_learned(network, plan)
    return plan


def require_layers(network: Network, patterns: Iterable[str]) -> None:
    """Refuse patterns that name no layer: a typo shows when the classifier is made, not when it learns.

    Raises:
        UsageError: a pattern that matches nothing.
    """
    from finetune.model.groups import match

    for pattern in patterns:
        match(pattern, network.groups, network.parameters)


def require_learned(network: Network, plan: FreezePlan) -> None:
    """Refuse to freeze layers with random weights for the whole run: their features are noise.

    Raises:
        UsageError: the network has no weights at all. ArtefactError: its weights did not hold those of frozen layers.
    """
    frozen = {group: names for group, names in plan.frozen_tensors().items() if group != "head"}
    random = set(network.missing)
    hollow = [group for group, names in frozen.items() if not network.pretrained or random & set(names)]
    if not hollow:
        return
    allow = f"allow random features with {setting('model.weights_missing', 'allow')}"
    shown = ", ".join(hollow[:4]) + (f" and {len(hollow) - 4} more" if len(hollow) > 4 else "")
    if not network.pretrained:
        raise UsageError(
            f"model.unfreeze: {shown} would stay frozen, but the network has no weights (model.weights: none)",
            f"train all of it with {setting('model.unfreeze', {'all': 0})}, give it weights, or {allow}",
        )
    count = len(random & {name for names in frozen.values() for name in names})
    raise ArtefactError(
        f"{network.source}: holds nothing for {count} tensors of layers that would stay frozen: {shown}",
        f"let those layers learn ({setting('model.unfreeze', {'head': 0, hollow[0]: 0})}), "
        f"give complete weights, or {allow}",
    )


def make_trainer(
    network: Network,
    plan: FreezePlan,
    data: Dataset,
    train: TrainConfig,
    compute: Compute,
    *,
    augment: str,
    class_weights: str,
    workers: int | None,
    seed: int,
    **hooks: Any,
) -> Trainer:
    """The trainer of a network on `data.train`, which chooses the best epoch on `data.val`.

    Args:
        network: changed in place.
        plan: what learns when.
        data: split images of the network's classes.
        train: how.
        compute: where.
        augment: none, light or strong.
        class_weights: none or balanced.
        workers: threads that decode; None for one per core.
        seed: of data order, augmentation and dropout.
        **hooks: checkpoints, stop, tick, progress and say of `finetune.train.trainer.Trainer`.
    """
    from finetune.data.batches import load_images
    from finetune.train.decide import make_cache, make_settings
    from finetune.train.trainer import Trainer

    require_split(data, network.classes)
    values = train.model_dump()
    settings = make_settings(values, data.train, augment, class_weights, seed, network)
    # both travel with the weights: how logits become probabilities, and which numbers were black and white in training
    network.loss, network.preprocess = settings.loss, network.preprocess.read_as(data.decoding)
    cache = make_cache(values)
    train_images, val_images = (
        load_images(part, network.preprocess, workers, cache.pictures()) for part in (data.train, data.val)
    )
    return Trainer(
        network,
        plan,
        train_images,
        val_images,
        settings,
        compute if train.speed == "auto" else replace(compute, speed="off"),
        cache=cache,
        val_is_final=data.test is None,
        **hooks,
    )

"""Defaults that depend on other settings; everything takes a `train` section as a plain mapping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune.data.augment import Augment
from finetune.data.dataset import ImageSet
from finetune.files import cache_folder
from finetune.model.network import Network
from finetune.train.cache_plan import CachePlan
from finetune.train.state import Settings

KEEP_BELOW = 5000
"""Training images below which BatchNorm statistics of thawed layers are kept by default."""

TIMES = ("every_epochs", "every_minutes", "every_steps")


def learns_by_default(network: Network) -> dict[str, int]:
    """The `unfreeze` map where a recipe has none: the head if the backbone has learned already, else everything.

    The one place that decides it: only the network knows whether weights were loaded (a card may describe a network
    without any), so a recipe's flags leave it open until there is one, see `finetune.recipe.flags`.
    """
    return {"head": 0} if network.pretrained else {"all": 0}


def backbone_lr(train: Mapping[str, Any], pretrained: bool) -> float:
    """A tenth of `lr` for what has learned already; from scratch there is nothing to be careful with."""
    if train["backbone_lr"] is not None:
        return float(train["backbone_lr"])
    return float(train["lr"]) / 10 if pretrained else float(train["lr"])


def keep_statistics(train: Mapping[str, Any], images: int, pretrained: bool) -> bool:
    """Whether BatchNorm statistics of thawed layers stay: few images or small batches give poor ones."""
    if train["batchnorm"] != "auto":
        return bool(train["batchnorm"] == "keep")
    return pretrained and (images < KEEP_BELOW or train["batch_size"] < 32)


def warmup_epochs(train: Mapping[str, Any]) -> float:
    """The warm-up of the recipe, else a twentieth of the run, at most one epoch."""
    epochs = train["warmup_epochs"]
    return float(epochs) if epochs is not None else min(1.0, train["epochs"] / 20)


def loss_of(train: Mapping[str, Any], architecture: str) -> str:
    """The loss of the recipe, else hinge for a perceptron and cross entropy for anything else."""
    return train["loss"] or ("hinge" if architecture == "small/perceptron" else "cross_entropy")


def make_cache(train: Mapping[str, Any]) -> CachePlan:
    """The limits of the feature cache, from the recipe's `train.cache`."""
    folder, cache = cache_folder() / "features", train["cache"]
    if isinstance(cache, str):
        return CachePlan(folder=folder, on=cache == "auto")
    return CachePlan(folder=folder, **cache)


def make_settings(
    train: Mapping[str, Any], images: ImageSet, augment: str, class_weights: str, seed: int, network: Network
) -> Settings:
    """The trainer's settings.

    Args:
        train: the values of a `train` section.
        images: to train on.
        augment: none, light or strong.
        class_weights: none, or balanced: each class as if it had as many images as the others.
        seed: of data order, augmentation and dropout.
        network: to train.
    """
    weights = None
    if class_weights == "balanced":
        counts = np.bincount(images.labels, minlength=len(images.classes))
        weights = tuple((len(images) / (len(counts) * counts)).tolist())
    shared = ("batch_size", "accumulate", "optimizer", "weight_decay", "momentum", "schedule", "margin")
    more = ("label_smoothing", "clip_norm", "ema", "early_stop", "select")
    return Settings(
        **{name: train[name] for name in (*shared, *more)},
        **{name: train["checkpoint"][name] for name in TIMES},
        warmup_epochs=warmup_epochs(train),
        loss=loss_of(train, network.architecture),
        class_weights=weights,
        gate=train["gate"] == "paired",
        keep_statistics=keep_statistics(train, len(images), network.pretrained),
        augment=Augment(augment),
        seed=seed,
    )

"""The keys of a recipe as the schema has them: which there are, which are text, which is nearest to a wrong one."""

from __future__ import annotations

import difflib
from functools import cache
from typing import Any, Literal, get_args, get_origin

from finetune.recipe.schema import Recipe
from finetune.recipe.values import Section
from finetune.recipe.yaml import Place

Kind = Literal["section", "mapping", "text", "other"]

OTHER_NAMES = {
    "learning_rate": "train.lr",
    "lr0": "train.lr",
    "max_lr": "train.lr",
    "base_lr": "train.lr",
    "amp": "train.precision",
    "fp16": "train.precision",
    "bf16": "train.precision",
    "half": "train.precision",
    "mixed_precision": "train.precision",
    "batch": "train.batch_size",
    "bs": "train.batch_size",
    "train_batch_size": "train.batch_size",
    "per_device_train_batch_size": "train.batch_size",
    "num_epochs": "train.epochs",
    "num_train_epochs": "train.epochs",
    "max_epochs": "train.epochs",
    "max_steps": "train.epochs",
    "opt": "train.optimizer",
    "optim": "train.optimizer",
    "wd": "train.weight_decay",
    "scheduler": "train.schedule",
    "sched": "train.schedule",
    "lr_scheduler": "train.schedule",
    "lr_scheduler_type": "train.schedule",
    "warmup": "train.warmup_epochs",
    "warmup_ratio": "train.warmup_epochs",
    "criterion": "train.loss",
    "smoothing": "train.label_smoothing",
    "label_smoothing_factor": "train.label_smoothing",
    "grad_clip": "train.clip_norm",
    "clip_grad": "train.clip_norm",
    "max_grad_norm": "train.clip_norm",
    "gradient_clip_val": "train.clip_norm",
    "gradient_accumulation_steps": "train.accumulate",
    "grad_accum": "train.accumulate",
    "accumulate_grad_batches": "train.accumulate",
    "patience": "train.early_stop",
    "early_stopping": "train.early_stop",
    "metric": "train.select",
    "monitor": "train.select",
    "metric_for_best_model": "train.select",
    "model_ema": "train.ema",
    "gpu": "train.device",
    "accelerator": "train.device",
    "num_workers": "data.workers",
    "dataloader_num_workers": "data.workers",
    "data": "data.folder",
    "data_dir": "data.folder",
    "dataset": "data.folder",
    "root": "data.folder",
    "path": "data.folder",
    "augmentation": "data.augment",
    "auto_augment": "data.augment",
    "transforms": "data.augment",
    "val_split": "data.split.val",
    "validation_split": "data.split.val",
    "class_weight": "data.class_weights",
    "model": "model.backbone",
    "arch": "model.backbone",
    "architecture": "model.backbone",
    "model_name": "model.backbone",
    "model_name_or_path": "model.backbone",
    "pretrained": "model.weights",
    "num_classes": "data.classes",
    "imgsz": "model.preprocess.size",
    "img_size": "model.preprocess.size",
    "image_size": "model.preprocess.size",
    "input_size": "model.preprocess.size",
    "crop_pct": "model.preprocess.crop",
    "drop_rate": "model.head.dropout",
    "freeze": "model.unfreeze",
    "frozen": "model.unfreeze",
    "random_state": "seed",
    "random_seed": "seed",
}
"""What other tools call a key → what it is here."""


@cache
def known() -> dict[Place, Kind]:
    """Every key with its kind: a section has keys below it, a mapping has free ones, text keeps what was written."""
    return dict(_walk(Recipe, ()))


def place_of(key: str) -> Place | None:
    """A dotted key as a place, or None if there is no such key; below a mapping the rest is one key, dots and all."""
    parts = tuple(key.split("."))
    for length in range(1, len(parts) + 1):
        kind = known().get(parts[:length])
        if kind is None:
            return None
        if kind == "mapping" and length < len(parts):
            return (*parts[:length], ".".join(parts[length:]))
    return parts


def is_text(place: Place) -> bool:
    """Whether a scalar there is text whatever it looks like; an item of a list of texts is."""
    while place and isinstance(place[-1], int):
        place = place[:-1]
    return known().get(place) == "text"


def nearest(place: Place) -> str:
    """`` (did you mean 'folder'?)``: the same key at another level, what other tools call so, else the nearest.

    A key of this level is given by its last name, any other in full.
    """
    parent, name = place[:-1], str(place[-1])
    others = {".".join(map(str, key)): str(key[-1]) for key in known() if key[:-1] != parent}
    siblings = [str(key[-1]) for key in known() if key[:-1] == parent]
    elsewhere = [key for key, last in others.items() if last == name]
    if not elsewhere and (other := OTHER_NAMES.get(name.lower().replace("-", "_"))):
        return f" (did you mean {other.removeprefix('.'.join(map(str, parent)) + '.')!r}?)"
    if not elsewhere and not (elsewhere := difflib.get_close_matches(name, siblings, n=3)):
        near = difflib.get_close_matches(name, set(others.values()), n=1, cutoff=0.75)
        elsewhere = [key for key, last in others.items() if last in near]
    full = ".".join(map(str, place))
    elsewhere.sort(key=lambda key: -difflib.SequenceMatcher(None, key, full).ratio())
    return f" (did you mean {' or '.join(repr(key) for key in elsewhere[:3])}?)" if elsewhere else ""


def _walk(section: type[Section], above: Place) -> list[tuple[Place, Kind]]:
    keys: list[tuple[Place, Kind]] = []
    for name, field in section.model_fields.items():
        below = _section(field.annotation)
        kind: Kind = "section" if below else _kind(field.annotation)
        keys.append(((*above, name), kind))
        keys += _walk(below, (*above, name)) if below else []
    return keys


def _section(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section(part))), None)


def _kind(annotation: Any) -> Kind:
    if annotation is str:
        return "text"
    if get_origin(annotation) in (dict, Literal):
        return "mapping" if get_origin(annotation) is dict else "other"
    kinds = [_kind(part) for part in get_args(annotation)]
    return next((kind for kind in kinds if kind != "other"), "other")

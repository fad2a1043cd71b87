"""How a network was trained, as label and text: the recipe's essentials, the machine, the time it took."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

ESSENTIALS = {
    "Weights": "model.weights",
    "Head": "model.head",
    "Optimizer": "train.optimizer",
    "Learning rate, head": "train.lr",
    "Learning rate, backbone": "train.backbone_lr",
    "Layer decay": "train.layer_decay",
    "Weight decay": "train.weight_decay",
    "Schedule": "train.schedule",
    "Loss": "train.loss",
    "Label smoothing": "train.label_smoothing",
    "Batch size": "train.batch_size",
    "Augmentation": "data.augment",
    "Class weights": "data.class_weights",
    "Epoch chosen by": "train.select",
    "Seed": "seed",
}
"""What most readers ask of a recipe, and where it stands in it."""


def facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Label and text of what the reader should know of the training, in reading order; what is unknown is left out."""
    recipe = run.get("recipe")
    rows = [(label, look_up(recipe, key)) for label, key in ESSENTIALS.items()]
    machine = [
        ("BatchNorm", "batchnorm"),
        ("Device", "device"),
        ("Precision", "precision"),
        ("Temperature", "temperature"),
    ]
    rows += [(label, run.get(key)) for label, key in machine]
    rows += [("Feature cache", _cache(run.get("cache")))]
    timings = run.get("timings") or {}
    rows += [("Time", ", ".join(f"{_spoken(key)} {_duration(value)}" for key, value in timings.items()))]
    rows += [("Versions", ", ".join(f"{key} {value}" for key, value in (run.get("versions") or {}).items()))]
    return [(label, _plain(value)) for label, value in rows if value not in (None, "", {}, [])]


def _cache(cache: object) -> str:
    """The feature cache in words; empty where nothing was cached."""
    if not isinstance(cache, Mapping) or not cache.get("computed", 0) + cache.get("hits", 0):
        return ""
    kept = f"{cache['computed']:,} feature rows computed, {cache.get('hits', 0):,} found from earlier runs"
    size, saved = cache.get("bytes"), cache.get("seconds_saved")
    kept += f" ({size / 1e6:,.1f} MB)" if isinstance(size, (int, float)) else ""
    return kept + (f", about {_duration(float(saved))} saved" if isinstance(saved, (int, float)) else "")


def date(run: Mapping[str, Any]) -> str:
    """When the run ended, to the minute; a run that is just ending has no such time yet."""
    date_text = run.get("date") or run.get("finished") or datetime.now().astimezone().isoformat()
    return str(date_text)[:16].replace("T", " ")


def look_up(recipe: object, key: str) -> object:
    """`train.lr` in a recipe of nested mappings; None where it isn't there."""
    for part in key.split("."):
        recipe = recipe.get(part) if isinstance(recipe, Mapping) else None
    return recipe


def flat(value: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Every key of a recipe with its dotted path, in order."""
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            rows += flat(item, f"{above}{key}.")
        else:
            rows.append((f"{above}{key}", _plain(item)))
    return rows


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_spoken(key)} {_plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(item) for item in value)
    names = {True: "yes", False: "no"}
    return names[value] if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _spoken(key: object) -> str:
    return str(key).removesuffix("_seconds").replace("_", " ")


def _duration(value: object) -> str:
    """Seconds as people say them."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _plain(value)
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"

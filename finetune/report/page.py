"""The one self-contained page of a result: `report.html`, no script, no link, pictures inside."""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from finetune.evaluate.metrics import NONE, predict
from finetune.files import markup
from finetune.report import charts, gradients, words
from finetune.report.tables import TOO_FEW, number, worst_first

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEAT_MAP_UP_TO = 20
"""Classes up to which the confusion matrix is a table of the page; above, it is a picture."""
RUN_KEYS = ("name", "backbone", "status", "recipe", "weights_sha256", "freeze_proof", "warnings", "data")
"""What the template asks of a run; a key that is missing is left out of the page."""
ROWS_SHOWN = 40
"""Classes listed at once; the others fold away."""
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


@dataclass(frozen=True)
class Context:
    """All that the page shows.

    Attributes:
        split: what was judged: 'test', 'val', or a name of the user's.
        selected_on: these images also chose the epoch.
        metrics: the content of `metrics.json`.
        confusion: int64 [C, C], rows = truth.
        predictions: (paths, labels int64 [N], probabilities float64 [N, C]).
        history: the rows of `history.csv`; may be empty.
        plan: columns and rows of `plan.csv`; may be empty.
        run: what `write_report` lists; every key may be missing.
        pictures: file name → PNG bytes, for what is shown as a picture.
    """

    split: str
    selected_on: bool
    metrics: Mapping[str, Any]
    confusion: NDArray[np.int64]
    predictions: tuple[Sequence[str], NDArray[np.int64], NDArray[np.float64]]
    history: Sequence[Mapping[str, Any]] = ()
    plan: tuple[Sequence[str], Sequence[Sequence[object]]] = ((), ())
    run: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def classes(self) -> list[str]:
        """Names in the order of the matrix."""
        return [row["class"] for row in self.metrics["per_class"]]


def render(context: Context) -> str:
    """The page as HTML text; every name that came from a file is escaped, and nothing outside the page is loaded."""
    environment = Environment(
        loader=PackageLoader("finetune", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_escaped,
    )
    environment.filters |= {"percent": words.percent, "number": number}
    run = dict.fromkeys(RUN_KEYS) | dict(context.run)
    return environment.get_template("page.html.j2").render(
        split=context.split,
        selected_on=context.selected_on,
        metrics={"cautions": [], **context.metrics},
        run=run,
        date=_date(run),
        too_few=TOO_FEW,
        sentences=words.verdict(context.metrics, context.confusion, context.selected_on),
        remark=words.NOT_PROBABILITIES.get(str(_look_up(run.get("recipe"), "train.loss")), ""),
        baseline=words.largest_share(context.metrics["per_class"]),
        rows=worst_first(context.metrics["per_class"]),
        rows_shown=ROWS_SHOWN,
        heat=heat_map(context) if len(context.classes) <= HEAT_MAP_UP_TO else [],
        classes=context.classes,
        picture=_data_uri(context.pictures.get("confusion.png")),
        confusions=words.confusions(context.confusion, context.metrics["per_class"]),
        mistakes=surest_mistakes(context),
        **_learning(context),
        calibration=_calibration(context),
        features=_data_uri(context.pictures.get("features.png")),
        plan=_plan(context.plan),
        data=_data(run.get("data") or {}),
        facts=_facts(run),
        recipe=_flat(run.get("recipe") or {}),
    )


def heat_map(context: Context) -> list[dict[str, Any]]:
    """Rows of the confusion matrix for the page: name, support, and a cell each with its count and its shade."""
    rows = []
    for row, counts in zip(context.metrics["per_class"], context.confusion.tolist(), strict=True):
        shades = [0.1 + 0.9 * math.sqrt(count / row["support"]) if count else 0.0 for count in counts]
        cells = [{"count": count, "shade": round(shade, 3)} for count, shade in zip(counts, shades, strict=True)]
        rows.append({"class": row["class"], "support": row["support"], "cells": cells})
    return rows


def surest_mistakes(context: Context, most: int = 8) -> list[dict[str, Any]]:
    """The wrong answers given with the most confidence: where a label may be wrong, this is where to look first."""
    paths, labels, probabilities = context.predictions
    predicted, confidence = predict(probabilities), probabilities.max(axis=1)
    wrong = np.flatnonzero((predicted != labels) & (predicted != NONE))
    order = wrong[np.argsort(-confidence[wrong], kind="stable")][:most]
    names = context.classes
    return [
        {"path": str(paths[i]), "truth": names[labels[i]], "predicted": names[predicted[i]], "sure": confidence[i]}
        for i in order.tolist()
    ]


def thaws(history: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """(epoch, phase) for every epoch at which a new phase begins, the first one left out."""
    pairs = itertools.pairwise(history)
    return [(int(new["epoch"]), int(new["phase"])) for old, new in pairs if new["phase"] != old["phase"]]


def best_epoch(context: Context) -> int | None:
    """The epoch whose weights were kept: as the run says, else by `train.select`, ties to the earliest."""
    if context.run.get("best_epoch") is not None:
        return int(context.run["best_epoch"])
    key = str(_look_up(context.run.get("recipe"), "train.select") or "val_macro_f1")
    sign = 1 if key == "val_loss" else -1
    scored = [(sign * float(row[key]), int(row["epoch"])) for row in context.history if row.get(key) is not None]
    return min(scored)[1] if scored else None


def _learning(context: Context) -> dict[str, Any]:
    """The two charts of the learning curves and what their captions need."""
    starts = thaws(context.history)
    marks = [(epoch, f"phase {phase}") for epoch, phase in starts]
    best = best_epoch(context)
    loss = charts.curves("Loss by epoch", _lines(context, {"train_loss": "b", "val_loss": "a"}), marks, best)
    score = {"val_accuracy": "c", "val_macro_f1": "a"}
    scores = charts.curves("Validation accuracy and macro F1 by epoch", _lines(context, score), marks, best)
    columns, rows = context.plan
    told = []
    for epoch, phase in starts:
        place = phase + 2
        known = rows if place < len(columns) else []
        new = [str(row[0]) for row in known if _frozen(row[place - 1]) and not _frozen(row[place])]
        told.append({"epoch": epoch, "phase": phase, "groups": new})
    norms = {"gradients": gradients.charts(context.history), "comparison": gradients.comparison(context.history)}
    return {"epochs": len(context.history), "loss": loss, "scores": scores, "best": best, "thaws": told, **norms}


def _lines(context: Context, keys: Mapping[str, str]) -> list[charts.Line]:
    def value(row: Mapping[str, Any], key: str) -> float:
        return math.nan if row.get(key) in (None, "") else float(row[key])

    return [
        charts.Line(style, [(int(row["epoch"]), value(row, key)) for row in context.history])
        for key, style in keys.items()
    ]


def _calibration(context: Context) -> dict[str, Any]:
    _, labels, probabilities = context.predictions
    bins = charts.calibration_bins(labels, probabilities)
    count = sum(one.count for one in bins)
    return {
        "picture": charts.calibration("Confidence against accuracy", bins),
        "sure": sum(one.confidence * one.count for one in bins) / count if count else None,
        "right": sum(one.accuracy * one.count for one in bins) / count if count else None,
        "ece": context.metrics["ece"],
        "lost": len(labels) - count,
    }


def _plan(plan: tuple[Sequence[str], Sequence[Sequence[object]]]) -> dict[str, Any]:
    """Rows of the plan with the share of the parameters that ever learns."""
    columns, rows = plan
    sizes = [int(str(row[1])) for row in rows]
    learning = sum(size for size, row in zip(sizes, rows, strict=True) if not all(_frozen(cell) for cell in row[2:]))
    shown = [
        {"group": row[0], "parameters": size, "cells": [{"text": cell, "frozen": _frozen(cell)} for cell in row[2:]]}
        for size, row in zip(sizes, rows, strict=True)
    ]
    return {"phases": columns[2:], "rows": shown, "total": sum(sizes), "learning": learning}


def _frozen(cell: object) -> bool:
    return str(cell) == "frozen"


def _data(data: Mapping[str, Any]) -> dict[str, Any]:
    """Counts as a table: one row a class, one column a split, with sums."""
    counts: Mapping[str, Mapping[str, int]] = data.get("counts") or {}
    splits = [name for name in ("train", "val", "test") if name in counts]
    splits += [name for name in counts if name not in splits]
    classes = list(dict.fromkeys(name for split in splits for name in counts[split]))
    rows = [{"class": name, "counts": [counts[split].get(name, 0) for split in splits]} for name in classes]
    largest = max((sum(counts[split].get(name, 0) for split in splits) for name in classes), default=1)
    sums = [sum(counts[split].values()) for split in splits]
    bad = [tuple(pair) for pair in data.get("bad") or ()]
    listed = {"folder": data.get("folder") or "", "notes": list(data.get("notes") or ()), "bad": bad}
    return {**listed, "splits": splits, "rows": rows, "sums": sums, "largest": largest}


def _facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Label and text of what the reader should know of the training, in reading order; what is unknown is left out."""
    recipe = run.get("recipe")
    found = [(label, _look_up(recipe, key)) for label, key in ESSENTIALS.items()]
    machine = [("BatchNorm", "batchnorm"), ("Device", "device"), ("Precision", "precision"), ("Cache", "cache")]
    found += [(label, run.get(key)) for label, key in machine]
    timings = run.get("timings") or {}
    found += [("Time", ", ".join(f"{_spoken(key)} {_duration(value)}" for key, value in timings.items()))]
    found += [("Versions", ", ".join(f"{key} {value}" for key, value in (run.get("versions") or {}).items()))]
    return [(label, _plain(value)) for label, value in found if value not in (None, "", {}, [])]


def _date(run: Mapping[str, Any]) -> str:
    """When the run ended, to the minute; a run that is just ending has no such time yet."""
    told = run.get("date") or run.get("finished") or datetime.now().astimezone().isoformat()
    return str(told)[:16].replace("T", " ")


def _look_up(recipe: object, key: str) -> object:
    """`train.lr` in a recipe of nested mappings; None where it isn't there."""
    for part in key.split("."):
        recipe = recipe.get(part) if isinstance(recipe, Mapping) else None
    return recipe


def _flat(value: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Every key of a recipe with its dotted path, in order."""
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            rows += _flat(item, f"{above}{key}.")
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


def _data_uri(png: bytes | None) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode() if png else ""


def _escaped(value: object) -> object:
    """All that the template prints: our own markup as it is, anything else through the one place that escapes."""
    return value if isinstance(value, Markup) else Markup(markup(value))

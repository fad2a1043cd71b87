"""The one self-contained page of a result: `report.html`. Nothing is loaded from outside; pictures are inside."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from shlex import quote
from typing import TYPE_CHECKING, Any

from finetune.files import visible
from finetune.report import words
from finetune.report.confidence import confidence, overconfidence
from finetune.report.facts import date, facts, flat, look_up
from finetune.report.faults import Faults
from finetune.report.gallery import Picks, Predictions, gallery, heat_map, pick
from finetune.report.html import render_page
from finetune.report.learning import History, Plan, fitting, learning
from finetune.report.plan_view import data_rows, plan_rows
from finetune.report.sizes import by_size
from finetune.report.solved_or_tuned import gate_sentence
from finetune.report.tables import TOO_FEW, worst_first
from finetune.report.worries import worries

if TYPE_CHECKING:
    import numpy as np
    from markupsafe import Markup
    from numpy.typing import NDArray

HEAT_MAP_UP_TO = 60
"""Classes up to which the confusion matrix is a table of the page; above, it is a picture."""
COUNTS_UP_TO = 30
"""Classes up to which the cells are wide enough for their numbers at a glance."""
RUN_KEYS = ("name", "backbone", "status", "recipe", "weights_sha256", "freeze_proof", "warnings", "data", "folder")
"""What the template asks of a run; a key that is missing is left out of the page."""
ROWS_SHOWN = 40
"""Classes listed at once; the others come with a click."""


@dataclass(frozen=True)
class Context:
    """All that the page shows.

    Attributes:
        split: what was evaluated: 'test', 'val', or a name of the user's.
        selected_on: these images also chose the epoch.
        metrics: the content of `metrics.json`.
        confusion: int64 [C, C], rows = truth.
        predictions: (paths, labels int64 [N], probabilities float64 [N, C]).
        history: the rows of `history.csv`; may be empty.
        plan: columns and rows of `plan.csv`; may be empty.
        run: what `write_report` lists; every key may be missing.
        pictures: file name → PNG bytes, for what is shown as a picture.
        picks: the images that are shown.
        thumbnails: place in the predictions → `data:` address of a picture.
        heats: the same, of what in the picture spoke for the answer.
        map_of_images: as `embedding_map` draws it.
    """

    split: str
    selected_on: bool
    metrics: Mapping[str, Any]
    confusion: NDArray[np.int64]
    predictions: Predictions
    history: History = ()
    plan: Plan = ((), ())
    run: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    picks: Picks | None = None
    thumbnails: Mapping[int, str] = field(default_factory=dict)
    heats: Mapping[int, str] = field(default_factory=dict)
    map_of_images: Markup | None = None

    @property
    def classes(self) -> list[str]:
        """Names in the order of the matrix."""
        return [row["class"] for row in self.metrics["per_class"]]


def render(context: Context, faults: Faults | None = None) -> str:
    """The page as HTML text; every name that came from a file is escaped, and nothing outside the page is loaded.

    Args:
        context: what it shows.
        faults: takes a line for each part of the page that could not be made; the page has all others.
    """
    faults = faults or Faults()
    run = dict.fromkeys(RUN_KEYS) | dict(context.run)
    rows = context.metrics["per_class"]
    parts = {**_evidence(context, run, faults), **_background(run, context.plan, faults)}
    run["warnings"] = [*(run.get("warnings") or ()), *faults.lines]
    return render_page(
        "page.html.j2",
        split=context.split,
        selected_on=context.selected_on,
        metrics=context.metrics,
        run=run,
        date=date(run),
        too_few=TOO_FEW,
        remark=words.NOT_PROBABILITIES.get(str(look_up(run.get("recipe"), "train.loss")), ""),
        baseline=words.largest_share(rows),
        rows=worst_first(rows),
        rows_shown=ROWS_SHOWN,
        counts_up_to=COUNTS_UP_TO,
        classes=context.classes,
        picture=_data_uri(context.pictures.get("confusion.png")),
        features=_data_uri(context.pictures.get("features.png")),
        features_dark=_data_uri(context.pictures.get("features-dark.png")),
        map_of_images=context.map_of_images,
        **parts,
    )


def _evidence(context: Context, run: Mapping[str, Any], faults: Faults) -> dict[str, Any]:
    """What the answers show: the verdict, what to worry about, confusions, images, confidence, curves."""
    _, labels, probabilities = context.predictions
    rows, data = context.metrics["per_class"], run.get("data") or {}
    part = partial(_part, faults)
    picks = context.picks or part("which images to show", Picks(), pick, labels, probabilities)
    images = (picks, context.predictions, context.classes, context.thumbnails, context.heats)
    shown = part("the images", {"mistakes": [], "unsure": [], "cells": []}, gallery, *images)
    sure = part("confidence", {}, confidence, labels, probabilities, run)
    curves = part("over- and underfitting", "", fitting, context.history, run)
    unsound = part("calibration", "", overconfidence, sure) if sure else ""
    by_images = context.metrics.get("learning_curve")
    few = len(rows) <= HEAT_MAP_UP_TO
    weighted = look_up(run.get("recipe"), "data.class_weights") == "balanced"
    against = (context.metrics, data, picks.very_sure, curves, unsound, weighted)
    return {
        "sentences": part("the verdict", [""], words.verdict, context.metrics, context.confusion, context.selected_on),
        "worries": part("what to worry about", [], worries, *against),
        "confusions": part("frequent mistakes", [], words.confusions, context.confusion, rows),
        "mergers": part("classes to merge", [], words.mergers, context.confusion, rows),
        "heat": part("the confusion matrix", [], heat_map, context.confusion, rows, picks) if few else [],
        "shown": shown,
        "confidence": sure,
        "gate": part("solved or tuned", "", gate_sentence, run.get("gate")),
        "sizes": part("the curve by number of images", {}, by_size, by_images) if by_images else {},
        "grouping": part("random split or groups", "", words.random_split, context.metrics.get("grouping")),
        "learning": part("the curves", {}, learning, context.history, context.plan, run),
    }


def _background(run: Mapping[str, Any], plan: Plan, faults: Faults) -> dict[str, Any]:
    """How it came about and how it goes on: plan, images, facts, recipe, commands."""
    part = partial(_part, faults)
    return {
        "plan": part("the plan", plan_rows(((), ())), plan_rows, plan),
        "data": part("the counts", data_rows({}), data_rows, run.get("data") or {}),
        "facts": part("the facts", [], facts, run),
        "recipe": part("the recipe", [], flat, run.get("recipe") or {}),
        "trained": part("what it was trained on", "", trained_on, run),
        "commands": part("the next commands", [], next_commands, run),
    }


def _part(faults: Faults, name: str, otherwise: Any, make: Callable[..., Any], *values: Any) -> Any:
    """What `make` gives of a part of the page; `otherwise` where it fails, which is said."""
    with faults.tolerate(f"of the page, {name}"):
        return make(*values)
    return otherwise


def trained_on(run: Mapping[str, Any]) -> str:
    """How many images it learned from, in words; empty where that is not known."""
    counts = ((run.get("data") or {}).get("counts") or {}).get("train") or {}
    return f"learned from {sum(counts.values()):,} images of {len(counts):,} classes" if counts else ""


def next_commands(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Next commands with their reasons; empty where the run folder is not known."""
    folder = run.get("folder")
    if not folder:
        return []
    name = quote(visible(str(folder)))
    return [
        (f"finetune predict {name} PHOTOS", "label other images"),
        (f"finetune evaluate {name} FOLDER", "measure it on other images with labels"),
        (f"finetune compare {name} OTHER_RUN", "is another run better, or is it chance?"),
        (f"finetune serve {name}", "answer over HTTP, with a page"),
        (f"finetune export {name} --to onnx", "use it elsewhere"),
    ]


def _data_uri(png: bytes | None) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode() if png else ""

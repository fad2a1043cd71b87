"""How the network learned: curves with their phases, and what can be read from them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from finetune.report import charts, gradients
from finetune.report.facts import look_up
from finetune.report.plan_view import is_frozen

History = Sequence[Mapping[str, Any]]
"""The rows of `history.csv`."""
Plan = tuple[Sequence[str], Sequence[Sequence[object]]]
"""Columns and rows of `plan.csv`."""


def thaws(history: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """(epoch, phase) for every epoch at which a new phase begins, the first one left out."""
    pairs = itertools.pairwise(history)
    return [(int(new["epoch"]), int(new["phase"])) for old, new in pairs if new["phase"] != old["phase"]]


def best_epoch(history: History, run: Mapping[str, Any]) -> int | None:
    """The epoch whose weights were kept: as the run says, else by `train.select`, ties to the earliest."""
    if run.get("best_epoch") is not None:
        return int(run["best_epoch"])
    key = str(look_up(run.get("recipe"), "train.select") or "val_macro_f1")
    sign = 1 if key == "val_loss" else -1
    scored = [(sign * number_in(row, key), int(row["epoch"])) for row in history]
    finite = [pair for pair in scored if math.isfinite(pair[0])]
    return min(finite)[1] if finite else None


def learning(history: History, plan: Plan, run: Mapping[str, Any]) -> dict[str, Any]:
    """The two charts of the learning curves and what their captions need."""
    starts, best = thaws(history), best_epoch(history, run)
    marks = [(epoch + 1, f"phase {phase}") for epoch, phase in starts]
    kept = None if best is None else best + 1  # people count from 1
    loss = charts.curves("Loss by epoch", _lines(history, {"train_loss": "b", "val_loss": "a"}), marks, kept)
    score = {"val_accuracy": "c", "val_macro_f1": "a"}
    scores = charts.curves("Validation accuracy and macro F1 by epoch", _lines(history, score), marks, kept)
    norms = {"gradients": gradients.charts(history), "comparison": gradients.comparison(history)}
    told = _thaw_sentences(starts, plan)
    return {"epochs": len(history), "loss": loss, "scores": scores, "best": best, "thaws": told, **norms}


def number_in(row: Mapping[str, Any], key: str) -> float:
    """A number of a row of the history; NaN where there is none."""
    return math.nan if row.get(key) in (None, "") else float(row[key])


def fitting(history: History, run: Mapping[str, Any]) -> str:
    """Over- or underfitting as the curves show it, in a sentence; empty where they show neither."""
    losses = [(number_in(row, "train_loss"), number_in(row, "val_loss")) for row in history]
    if len(losses) < 3 or not all(math.isfinite(value) for pair in losses for value in pair):
        return ""
    epoch = min(range(len(losses)), key=lambda place: losses[place][1])
    lowest, (learned, last) = losses[epoch][1], losses[-1]
    if last > 1.1 * lowest and last > lowest + 0.02 and learned < losses[epoch][0]:
        kept = best_epoch(history, run)
        saved = ", so its end is not what was kept" if kept is not None and kept < len(losses) - 1 else ""
        return (
            f"Overfitting: after epoch {epoch + 1} the loss on validation rose from {lowest:.3f} to {last:.3f} while "
            f"that on training images fell{saved}. Fewer epochs, a lower rate, or more images help"
        )
    if epoch == len(losses) - 1 and losses[-2][1] - last > 0.02 * last:
        return "It was still getting better in the last epoch: more epochs may help (train.epochs)"
    return ""


def _thaw_sentences(starts: Sequence[tuple[int, int]], plan: Plan) -> list[dict[str, Any]]:
    """Sentences on which layers begin to learn at each thaw."""
    columns, rows = plan
    sentences = []
    for epoch, phase in starts:
        place = phase + 2
        known = rows if place < len(columns) else []
        new = [str(row[0]) for row in known if is_frozen(row[place - 1]) and not is_frozen(row[place])]
        sentences.append({"epoch": epoch, "phase": phase, "groups": new})
    return sentences


def _lines(history: History, keys: Mapping[str, str]) -> list[charts.Line]:
    return [
        charts.Line(style, [(int(row["epoch"]) + 1, number_in(row, key)) for row in history])
        for key, style in keys.items()
    ]

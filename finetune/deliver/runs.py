"""The runs in a folder, with their figures: `finetune runs`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune.errors import FinetuneError, UsageError
from finetune.files import read_json
from finetune.runs.folder import RunFolder
from finetune.runs.names import RUN_JSON, RunNames

COLUMNS = (
    "run",
    "status",
    "backbone",
    "split",
    "n",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "macro_f1",
    "loss",
    "ece",
    "seed",
    "seconds",
    "finished",
)
"""What is told of a run, in this order."""

DEEP = 3
"""Folders below the one that is named in which runs are looked for: NAME/001/seed-0."""


def list_runs(folder: Path, sort: str = "run") -> list[dict[str, Any]]:
    """The runs below a folder, one row each with the keys `COLUMNS`; None where something is not known.

    Args:
        folder: such as `runs`.
        sort: a column; rates largest first, what is not known last.

    Raises:
        UsageError: there is no such folder or column, or no run in it.
    """
    if sort not in COLUMNS:
        raise UsageError(f"--sort {sort}: no such column", f"choose one of {', '.join(COLUMNS)}")
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder", "name the folder that your runs are in: finetune runs FOLDER")
    patterns = ["/".join(["*"] * depth + [RUN_JSON]) for depth in range(DEEP + 1)]
    folders = sorted({path.parent for pattern in patterns for path in folder.glob(pattern)})
    if not folders:
        raise UsageError(f"{folder}: no run in here", "make one: finetune run RECIPE")
    rows = [_row(path) for path in folders]
    if sort == "run":
        return rows
    known = [row for row in rows if row[sort] is not None]
    largest_first = sort not in ("status", "backbone", "split", "loss", "ece", "seed")
    known.sort(key=lambda row: row[sort], reverse=largest_first)
    return known + [row for row in rows if row[sort] is None]


def _row(path: Path) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row["run"] = str(path)
    try:
        record = RunFolder.open(path).record
        names = RunNames(path)
        metrics = read_json(names.report.metrics_json) if names.report.metrics_json.is_file() else {}
    except FinetuneError:
        return {**row, "status": "unreadable"}
    low, high = metrics.get("accuracy_ci95") or (None, None)
    return {
        **row,
        **{key: metrics.get(key) for key in ("split", "n", "accuracy", "macro_f1", "loss", "ece")},
        "status": record.status,
        "backbone": record.recipe.get("model", {}).get("backbone"),
        "accuracy_low": low,
        "accuracy_high": high,
        "seed": record.recipe.get("seed"),
        "seconds": round(sum(record.timings.values()), 1) if record.timings else None,
        "finished": record.finished,
    }

"""What a server says of its model: nothing that names a path of the machine it runs on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune.files import read_json
from finetune.model.bundle import find_bundle, read_description
from finetune.runs.names import RunNames

MEASURED = ("split", "n", "accuracy", "accuracy_ci95", "macro_f1", "macro_f1_ci95", "balanced_accuracy", "loss", "ece")
"""Keys of the metrics that are told as they are, besides `per_class`."""


def about(run: Path, *, threshold: float | None) -> dict[str, Any]:
    """Classes, preprocessing and weights of the model at `run`, its metrics with intervals, and its card.

    Args:
        run: a run folder or a bundle.
        threshold: confidence below which the server abstains.
    """
    description = read_description(run)
    return {
        "classes": description.classes,
        "architecture": description.architecture,
        "preprocess": description.preprocess,
        "weights_sha256": description.weights_sha256,
        "threshold": threshold,
        "metrics": _metrics(run),
        "card": _card(find_bundle(run)),
    }


def _metrics(run: Path) -> dict[str, Any] | None:
    """Of the run's final report; None where there is none, as beside a bundle that was copied alone."""
    for folder in (run, run.parent):
        names = RunNames(folder)
        if names.recipe.is_file() and names.report.metrics_json.is_file():
            found = read_json(names.report.metrics_json)
            return {key: found[key] for key in (*MEASURED, "per_class") if key in found}
    return None


def _card(bundle: Path) -> str | None:
    path = bundle / "README.md"
    return path.read_text("utf-8", "replace") if path.is_file() else None

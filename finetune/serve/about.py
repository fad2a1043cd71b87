"""A server's description of its model, without any path of the machine it runs on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune.deliver.open_network import run_of
from finetune.files import read_json
from finetune.model.bundle import plain_state
from finetune.model.network import Network
from finetune.model.weights import tensors_sha256
from finetune.runs.names import RunNames

MEASURED = ("split", "n", "accuracy", "accuracy_ci95", "macro_f1", "macro_f1_ci95", "balanced_accuracy", "loss", "ece")
"""Keys of the metrics that are told as they are, besides `per_class`."""


def about(run: Path, network: Network, *, threshold: float | None) -> dict[str, Any]:
    """Classes, preprocessing and weights of the model at `run`, its metrics with intervals, and its card.

    Args:
        run: a run folder, a bundle, or a checkpoint.
        network: the model.
        threshold: confidence below which the server abstains.
    """
    folder = run_of(run)
    bundle = RunNames(folder).model if RunNames(folder).model.is_dir() else folder
    return {
        "classes": network.classes,
        "architecture": network.architecture,
        "preprocess": network.preprocess.as_dict(),
        "weights_sha256": tensors_sha256(plain_state(network.module.state_dict())),
        "threshold": threshold,
        "metrics": _metrics(folder),
        "card": _card(bundle),
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

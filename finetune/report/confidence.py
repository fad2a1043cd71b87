"""The page's section on confidence: reliability before and after the temperature, and the gain from abstaining."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.evaluate.calibrate import ece_of_the_calibrated, tempered
from finetune.evaluate.coverage import TARGET, answered, auto_threshold, coverage_curve
from finetune.evaluate.metrics import brier_score, calibration_error
from finetune.report import charts
from finetune.report.facts import look_up

if TYPE_CHECKING:
    from numpy.typing import NDArray


def confidence(labels: NDArray[np.int64], probabilities: NDArray[np.float64], run: Mapping[str, Any]) -> dict[str, Any]:
    """Charts and figures of the section on confidence.

    Args:
        labels: int64 [N].
        probabilities: float64 [N, C], after the temperature.
        run: with `temperature`, `threshold` and the recipe, as far as they are known.
    """
    bins = charts.calibration_bins(labels, probabilities)
    count = sum(bin.count for bin in bins)
    return {
        "picture": charts.calibration("Confidence against accuracy", bins),
        "sure": sum(bin.confidence * bin.count for bin in bins) / count if count else None,
        "right": sum(bin.accuracy * bin.count for bin in bins) / count if count else None,
        "ece": calibration_error(labels, probabilities),
        "brier": brier_score(labels, probabilities),
        "ideal": ece_of_the_calibrated(probabilities),
        "lost": len(labels) - count,
        "before": _before(labels, probabilities, run),
        **_abstaining(labels, probabilities, run),
    }


def overconfidence(found: Mapping[str, Any]) -> str:
    """Whether stated confidence and accuracy lie further apart than few images explain, in a sentence; or nothing."""
    sure, right, ece = found["sure"], found["right"], found["ece"]
    if None in (sure, right, ece) or ece < 2 * found["ideal"] or abs(sure - right) < 0.03:
        return ""
    what = "too sure of itself" if sure > right else "more cautious than it need be"
    return f"It is {what}: {100 * sure:.0f}% sure on average, right {100 * right:.0f}% of the time"


def _before(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], run: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The same without the temperature; None where there is none, or where probabilities do not tell (bce)."""
    temperature = run.get("temperature") or 1.0
    if temperature == 1.0 or look_up(run.get("recipe"), "train.loss") == "bce":
        return None
    raw = tempered(probabilities, 1 / temperature)
    bins = charts.calibration_bins(labels, raw)
    return {
        "temperature": temperature,
        "picture": charts.calibration("Confidence against accuracy before the temperature", bins),
        "ece": calibration_error(labels, raw),
        "brier": brier_score(labels, raw),
    }


def _abstaining(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], run: Mapping[str, Any]
) -> dict[str, Any]:
    """The coverage curve, and what the run's threshold (else the automatic one of these images) leaves."""
    _, shares, accuracies = coverage_curve(labels, probabilities)
    own = run.get("threshold")
    threshold = own if own is not None else auto_threshold(labels, probabilities)
    left = None if threshold is None else answered(labels, probabilities, float(threshold))
    mark = None if left is None or left.accuracy is None else (left.share, left.accuracy)
    drawn = charts.coverage("Accuracy against the share of images answered", shares, accuracies, mark)
    return {"coverage": drawn if len(shares) > 1 else "", "left": left, "from_run": own is not None, "target": TARGET}

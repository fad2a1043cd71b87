"""Every number of `metrics.json` and `per_class.csv`, from one confusion matrix over the whole set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from finetune.evaluate.intervals import f1_intervals, macro_f1_interval, wilson
from finetune.evaluate.ranking import ranking_scores, top_k

PER_CLASS = (
    "class",
    "support",
    "precision",
    "recall",
    "f1",
    "precision_low",
    "precision_high",
    "recall_low",
    "recall_high",
    "f1_low",
    "f1_high",
    "average_precision",
    "roc_auc",
)
"""Columns of `per_class.csv`."""

ECE_BINS = 15
"""Equal bins of confidence for the expected calibration error, as in Guo et al. 2017."""

NONE = -1
"""The predicted class of an image whose outputs are not finite: none, and so always wrong."""


@dataclass(frozen=True)
class Metrics:
    """How good the predictions are; None where there is nothing to tell from.

    Macro averages run over the `classes_evaluated` classes with support. `per_class` is a table with the columns
    `PER_CLASS`, a row for each class in their order, NaN where a rate is undefined. `confusion` is int64 [C, C], rows
    the truth; an image whose outputs are not finite counts as wrong and is in no column.
    """

    n: int
    accuracy: float | None
    accuracy_ci95: tuple[float, float] | None
    macro_f1: float | None
    macro_f1_ci95: tuple[float, float] | None
    balanced_accuracy: float | None
    loss: float | None
    ece: float | None
    brier: float | None
    top_k: dict[str, float]
    per_class: pd.DataFrame
    confusion: np.ndarray

    def __repr__(self) -> str:
        figures = {"accuracy": self.accuracy, "macro F1": self.macro_f1, "loss": self.loss}
        known_figures = ", ".join(f"{name} {value:.4f}" for name, value in figures.items() if value is not None)
        return f"Metrics({self.n} images, {len(self.per_class)} classes{', ' if known_figures else ''}{known_figures})"

    @property
    def base_rate(self) -> float | None:
        """The accuracy of always answering the largest class."""
        return float(self.per_class["support"].max() / self.n) if self.n else None

    @property
    def classes_evaluated(self) -> int:
        """Number of classes with at least one image."""
        return int((self.per_class["support"] > 0).sum())

    def as_dict(self, split: str) -> dict[str, Any]:
        """The content of `metrics.json`: plain numbers, None where undefined."""
        return {
            "split": split,
            "n": self.n,
            "accuracy": self.accuracy,
            "accuracy_ci95": list(self.accuracy_ci95) if self.accuracy_ci95 else None,
            "base_rate": self.base_rate,
            "macro_f1": self.macro_f1,
            "macro_f1_ci95": list(self.macro_f1_ci95) if self.macro_f1_ci95 else None,
            "balanced_accuracy": self.balanced_accuracy,
            "loss": self.loss,
            "ece": self.ece,
            "brier": self.brier,
            "top_k": self.top_k,
            "per_class": [
                {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
                for row in self.per_class.to_dict("records")
            ],
        }


def probabilities(logits: np.ndarray, loss: str = "cross_entropy", temperature: float = 1.0) -> np.ndarray:
    """The outputs of a network as probabilities, according to the loss it was trained with and its temperature.

    `cross_entropy`: softmax. `bce` (one against the rest): sigmoids, divided by their sum. `hinge`: softmax of the
    margins, which ranks as the margins do but was never trained to be calibrated.

    Args:
        logits: float [N, C].
        loss: `cross_entropy`, `bce` or `hinge`.
        temperature: that of the network; the logits are divided by it (`evaluate.calibrate`).

    Returns:
        float64 [N, C], rows summing to 1; a row that is not finite is NaN.
    """
    scores = logits.astype(np.float64) / temperature
    with np.errstate(all="ignore"):
        if loss == "bce":
            # The normalised sigmoids are the softmax of the log-sigmoids, in which nothing underflows to 0 / 0.
            scores = -np.logaddexp(0.0, -scores)
        # less the largest, so that no exponential overflows; the quotient below is the same
        scores = np.exp(scores - scores.max(axis=1, keepdims=True, initial=-np.inf))
        result: np.ndarray = scores / scores.sum(axis=1, keepdims=True)
    # an infinite logit would give a confident answer: it is a failure of the network, and is counted as one
    result[~np.isfinite(logits).all(axis=1) | ~np.isfinite(result).all(axis=1)] = np.nan
    return result


def predict(probabilities: np.ndarray) -> np.ndarray:
    """The most probable class of each row, the first of equals; `NONE` where the row is not finite.

    Args:
        probabilities: float64 [N, C].

    Returns:
        int64 [N].
    """
    finite = np.isfinite(probabilities).all(axis=1)
    predicted = np.full(len(probabilities), NONE, dtype=np.int64)
    if finite.any():
        predicted[finite] = probabilities[finite].argmax(axis=1)
    return predicted


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts int64 [C, C], row the true class and column the predicted one; `NONE` is in no column."""
    answered = predicted != NONE
    cells = np.bincount(labels[answered] * n_classes + predicted[answered], minlength=n_classes * n_classes)
    return cells.reshape(n_classes, n_classes).astype(np.int64)


def cross_entropy(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Mean of minus the log probability of the true class, unweighted and unsmoothed; None if that is no number.

    Probabilities are kept within [eps, 1 - eps] of float64, as scikit-learn's `log_loss` does, so that the loss is
    finite and follows from `predictions.csv` to the last digits.
    """
    eps = np.finfo(np.float64).eps
    if len(labels) == 0:
        return None
    true = np.clip(probabilities[np.arange(len(labels)), labels], eps, 1 - eps)
    return _number(-np.log(true).mean())


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = ECE_BINS) -> float | None:
    """Expected calibration error: mean gap between confidence and accuracy over equal bins (low, high] of confidence.

    Guo et al. 2017, "On Calibration of Modern Neural Networks". None without images, or with outputs that are not
    finite.
    """
    if len(labels) == 0 or not np.isfinite(probabilities).all():
        return None
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    inside = confidence_bins(confidence, bins)
    # sums instead of means: each bin's gap is weighted by its images, whose number cancels
    gaps = np.bincount(inside, weights=correct, minlength=bins) - np.bincount(inside, confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def confidence_bins(confidence: np.ndarray, bins: int = ECE_BINS) -> np.ndarray:
    """The bin of each confidence, int64 [N], of so many equal ones (low, high]."""
    bin_of: np.ndarray = np.clip(np.searchsorted(np.linspace(0, 1, bins + 1), confidence, side="left") - 1, 0, bins - 1)
    return bin_of


def brier_score(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Mean squared distance of the probabilities from the truth, summed over classes: 0 is perfect, 2 the worst.

    Brier 1950. None without images, or with outputs that are not finite.
    """
    if len(labels) == 0 or not np.isfinite(probabilities).all():
        return None
    own = probabilities[np.arange(len(labels)), labels]  # the squares of (p - 1) and p differ by 1 - 2p
    return float(((probabilities**2).sum(axis=1) - 2 * own + 1).mean())


def compute_metrics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: list[str],
    loss: float | None = None,
    intervals: bool = True,
) -> Metrics:
    """All metrics of a set of predictions.

    Args:
        labels: int64 [N], places in `classes`.
        probabilities: float64 [N, C].
        classes: names, in the order of the columns.
        loss: the mean cross entropy where the caller has it; else it is computed from the probabilities.
        intervals: whether to compute the intervals; NaN or None without.
    """
    predicted = predict(probabilities)
    confusion = confusion_matrix(labels, predicted, len(classes))
    support = np.bincount(labels, minlength=len(classes))
    precision, recall, f1 = _rates(confusion, support)
    # as objects: pandas' own strings, where pyarrow holds them, refuse the undecodable bytes of a folder's name
    names = pd.Series(classes, dtype=object)
    columns: dict[str, Any] = {"class": names, "support": support, "precision": precision, "recall": recall, "f1": f1}
    if intervals:
        hits = np.diag(confusion)
        bounds = (_wilson(hits, confusion.sum(axis=0)), _wilson(hits, support), f1_intervals(confusion, support))
    else:
        bounds = (np.full((len(classes), 2), np.nan),) * 3
    for name, low_high in zip(("precision", "recall", "f1"), bounds, strict=True):
        columns[f"{name}_low"], columns[f"{name}_high"] = low_high.T
    columns["average_precision"], columns["roc_auc"] = ranking_scores(labels, probabilities)
    n, correct = len(labels), int(np.trace(confusion))
    return Metrics(
        n=n,
        accuracy=correct / n if n else None,
        accuracy_ci95=wilson(correct, n),
        macro_f1=_mean(f1),
        macro_f1_ci95=macro_f1_interval(confusion, support) if intervals else None,
        balanced_accuracy=_mean(recall),
        loss=cross_entropy(labels, probabilities) if loss is None else _number(loss),
        ece=calibration_error(labels, probabilities),
        brier=brier_score(labels, probabilities),
        top_k=top_k(labels, probabilities),
        per_class=pd.DataFrame(columns, columns=list(PER_CLASS)),
        confusion=confusion,
    )


def epoch_metrics(labels: np.ndarray, logits: np.ndarray, loss: str = "cross_entropy") -> dict[str, float]:
    """The three numbers of an epoch, equal to those of `compute_metrics`, without intervals.

    What is no number is the worst there is (infinite loss, zero rates), so that no comparison takes it for the best.

    Args:
        labels: int64 [N].
        logits: float [N, C].
        loss: what the network is trained with, for `probabilities`.

    Returns:
        `val_loss`, `val_accuracy` and `val_macro_f1`.
    """
    p = probabilities(logits, loss)
    support = np.bincount(labels, minlength=p.shape[1])
    confusion = confusion_matrix(labels, predict(p), p.shape[1])
    mean_loss, macro_f1 = cross_entropy(labels, p), _mean(_rates(confusion, support)[2])
    return {
        "val_loss": math.inf if mean_loss is None else mean_loss,
        "val_accuracy": float(np.trace(confusion) / max(1, len(labels))),
        "val_macro_f1": 0.0 if macro_f1 is None else macro_f1,
    }


def _rates(confusion: np.ndarray, support: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of each class, float64 [C]; NaN: never predicted, no support, no support.

    F1 is 2TP / (2TP + FP + FN), so a class that is never predicted has F1 0 although its precision is undefined.
    """
    hits, named = np.diag(confusion), confusion.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(named > 0, hits / named, np.nan)
        recall = np.where(support > 0, hits / support, np.nan)
        f1 = np.where(support > 0, 2 * hits / (named + support), np.nan)
    return precision, recall, f1


def _wilson(successes: np.ndarray, trials: np.ndarray) -> np.ndarray:
    """Wilson intervals, float64 [C, 2]; NaN without trials."""
    bounds = [wilson(int(k), int(n)) or (np.nan, np.nan) for k, n in zip(successes, trials, strict=True)]
    return np.array(bounds, dtype=np.float64).reshape(-1, 2)


def _mean(rates: np.ndarray) -> float | None:
    """Mean over the classes that have the rate; None if none has."""
    present = rates[~np.isnan(rates)]
    return float(present.mean()) if len(present) else None


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None

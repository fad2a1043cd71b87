"""Metrics: against scikit-learn to 1e-9, from the written predictions; the odd cases; NaN is worst."""

from __future__ import annotations

import csv
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
)

from finetune.evaluate.metrics import (
    PER_CLASS,
    calibration_error,
    compute_metrics,
    confusion_matrix,
    cross_entropy,
    epoch_metrics,
    predict,
    probabilities,
)
from finetune.files import write_csv


def outputs(n: int, classes: list[int], width: int, seed: int, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels among `classes` and float32 logits [n, width] that are often right."""
    random = np.random.default_rng(seed)
    labels = random.choice(classes, n)
    logits = random.normal(0, scale, (n, width)).astype(np.float32)
    logits[np.arange(n), labels] += scale
    return labels, logits


def names(width: int) -> list[str]:
    return [f"class {i}" for i in range(width)]


def written_and_read(path: Path, labels: np.ndarray, p: np.ndarray) -> tuple[list[str], list[str], np.ndarray]:
    """Truth, prediction and probabilities as a file of predictions gives them back."""
    classes = names(p.shape[1])
    rows = [
        [classes[label], classes[best], *row.tolist()] for label, best, row in zip(labels, predict(p), p, strict=True)
    ]
    write_csv(path, ["class", "predicted", *(f"p:{name}" for name in classes)], rows)
    with open(path, newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    back = np.array([[float(row[f"p:{name}"]) for name in classes] for row in table])
    return [row["class"] for row in table], [row["predicted"] for row in table], back


CASES = {
    "all classes": (403, [0, 1, 2, 3], 4, 2.0),
    "the first class is absent": (97, [1, 2, 3], 4, 1.0),
    "only one class has images": (11, [2], 4, 1.0),
    "a single image": (1, [1], 3, 1.0),
    "so sure that probabilities underflow": (60, [0, 1, 2], 3, 300.0),
    "many classes, few images": (40, list(range(30)), 30, 1.0),
}


@pytest.mark.parametrize("loss", ["cross_entropy", "bce", "hinge"])
@pytest.mark.parametrize("case", CASES)
def test_scikit_learn_says_the_same_of_the_written_predictions(case: str, loss: str, tmp_path: Path) -> None:
    n, present, width, scale = CASES[case]
    labels, logits = outputs(n, present, width, seed=len(case), scale=scale)
    p = probabilities(logits, loss)
    metrics = json.loads(json.dumps(compute_metrics(labels, p, names(width)).as_dict("test")))
    truth, predicted, back = written_and_read(tmp_path / "predictions.csv", labels, p)
    np.testing.assert_array_equal(back, p)

    some = sorted(set(truth))
    assert metrics["n"] == n
    assert metrics["accuracy"] == pytest.approx(accuracy_score(truth, predicted), abs=1e-9)
    assert metrics["macro_f1"] == pytest.approx(
        f1_score(truth, predicted, labels=some, average="macro", zero_division=0), abs=1e-9
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some predicted classes are not in y_true is the point
        assert metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, predicted), abs=1e-9)
        expected_loss = log_loss(labels, back, labels=range(width))
    assert metrics["loss"] == pytest.approx(expected_loss, abs=1e-9)
    rates = precision_recall_fscore_support(truth, predicted, labels=names(width), zero_division=np.nan)
    for row, precision, recall, f1, support in zip(metrics["per_class"], *rates, strict=True):
        assert row["support"] == support
        assert_same(row["precision"], precision)
        assert_same(row["recall"], recall)
        assert_same(row["f1"], f1 if support else math.nan)


def assert_same(ours: float | None, theirs: float) -> None:
    if ours is None:
        assert math.isnan(theirs)
    else:
        assert ours == pytest.approx(theirs, abs=1e-9)


def test_the_content_of_metrics_json() -> None:
    labels, logits = outputs(50, [0, 1], 2, seed=0)
    content = compute_metrics(labels, probabilities(logits), ["a", "b"]).as_dict("val")
    assert list(content) == [
        "split",
        "n",
        "accuracy",
        "accuracy_ci95",
        "base_rate",
        "macro_f1",
        "macro_f1_ci95",
        "balanced_accuracy",
        "loss",
        "ece",
        "brier",
        "top_k",
        "per_class",
    ]
    assert content["split"] == "val"
    assert [tuple(row) for row in content["per_class"]] == [PER_CLASS] * 2
    low, high = content["accuracy_ci95"]
    assert low < content["accuracy"] < high
    assert content["base_rate"] == max(row["support"] for row in content["per_class"]) / 50
    for row in content["per_class"]:
        for rate in ("precision", "recall", "f1"):
            assert row[f"{rate}_low"] <= row[rate] <= row[f"{rate}_high"]


def test_absent_and_never_predicted_classes() -> None:
    labels = np.array([0, 0, 1, 1, 2])
    p = np.eye(5)[[0, 0, 0, 0, 4]]  # 1 and 2 are never predicted; 3 and 4 are absent, 4 is predicted
    metrics = compute_metrics(labels, p, names(5))
    rows = metrics.as_dict("test")["per_class"]
    assert [row["precision"] for row in rows] == [0.5, None, None, None, 0.0]
    assert [row["recall"] for row in rows] == [1.0, 0.0, 0.0, None, None]
    assert [row["f1"] for row in rows] == [pytest.approx(4 / 6), 0.0, 0.0, None, None]
    assert [row["support"] for row in rows] == [2, 2, 1, 0, 0]
    assert [row["f1_low"] is None for row in rows] == [False, False, False, True, True]
    assert metrics.macro_f1 == pytest.approx(4 / 6 / 3)
    assert metrics.classes_evaluated == 3
    np.testing.assert_array_equal(metrics.confusion.sum(axis=1), [2, 2, 1, 0, 0])


def test_a_perfect_predictor_scores_one_though_the_first_class_is_absent() -> None:
    labels = np.array([1, 2, 2])
    metrics = compute_metrics(labels, np.eye(3)[labels], ["cat", "dog", "eel"])
    assert (metrics.accuracy, metrics.macro_f1, metrics.balanced_accuracy) == (1.0, 1.0, 1.0)
    cat = metrics.as_dict("val")["per_class"][0]
    assert [value for key, value in cat.items() if key not in ("class", "support")] == [None] * 11


def test_no_image_at_all() -> None:
    metrics = compute_metrics(np.empty(0, np.int64), np.empty((0, 2)), ["a", "b"])
    content = metrics.as_dict("test")
    assert content["n"] == 0
    assert {content[key] for key in ("accuracy", "accuracy_ci95", "macro_f1", "loss", "ece")} == {None}
    assert epoch_metrics(np.empty(0, np.int64), np.empty((0, 2)))["val_macro_f1"] == 0.0


def test_outputs_that_are_not_finite_are_wrong_and_never_best() -> None:
    labels = np.array([0, 0, 1, 1])
    logits = np.array([[np.nan, np.nan], [3, 0], [0, np.inf], [0, 3]], np.float32)
    p = probabilities(logits)
    np.testing.assert_array_equal(predict(p), [-1, 0, -1, 1])
    metrics = compute_metrics(labels, p, ["a", "b"])
    assert metrics.accuracy == 0.5
    assert (metrics.loss, metrics.ece) == (None, None)
    assert metrics.confusion.tolist() == [[1, 0], [0, 1]]
    assert metrics.per_class["recall"].tolist() == [0.5, 0.5]
    assert epoch_metrics(labels, logits) == {
        "val_loss": math.inf,
        "val_accuracy": 0.5,
        "val_macro_f1": pytest.approx(2 / 3),
    }
    worst = epoch_metrics(labels, np.full((4, 2), np.nan))
    assert worst == {"val_loss": math.inf, "val_accuracy": 0.0, "val_macro_f1": 0.0}
    json.dumps(compute_metrics(labels, np.full((4, 2), np.nan), ["a", "b"]).as_dict("test"), allow_nan=False)


@pytest.mark.parametrize("loss", ["cross_entropy", "bce", "hinge"])
def test_quick_is_evaluate_without_the_intervals(loss: str) -> None:
    labels, logits = outputs(200, [0, 2, 3], 4, seed=9)
    metrics = compute_metrics(labels, probabilities(logits, loss), names(4), intervals=False)
    assert epoch_metrics(labels, logits, loss) == {
        "val_loss": metrics.loss,
        "val_accuracy": metrics.accuracy,
        "val_macro_f1": metrics.macro_f1,
    }
    assert metrics.per_class[["f1_low", "recall_high", "precision_low"]].isna().all(axis=None)
    assert metrics.accuracy_ci95 is not None


def test_the_loss_is_that_of_torch() -> None:
    labels, logits = outputs(300, [0, 1, 2], 3, seed=4)
    expected = torch.nn.functional.cross_entropy(torch.tensor(logits).double(), torch.tensor(labels)).item()
    assert cross_entropy(labels, probabilities(logits)) == pytest.approx(expected, abs=1e-12)
    assert compute_metrics(labels, probabilities(logits), names(3), loss=0.25).loss == 0.25


def test_probabilities_of_each_loss() -> None:
    logits = np.array([[1.0, -2.0, 0.5], [-800.0, -900.0, -1000.0]], np.float32)
    sigmoid = 1 / (1 + np.exp(-logits[0].astype(np.float64)))
    np.testing.assert_allclose(probabilities(logits, "bce")[0], sigmoid / sigmoid.sum(), rtol=1e-12)
    softmax = torch.softmax(torch.tensor(logits).double(), 1).numpy()
    for loss in ("cross_entropy", "hinge"):
        np.testing.assert_allclose(probabilities(logits, loss), softmax, rtol=1e-12)
    for loss in ("cross_entropy", "bce", "hinge"):
        assert probabilities(logits, loss).sum(axis=1) == pytest.approx([1.0, 1.0], abs=1e-12)


def test_calibration_by_hand() -> None:
    # Two bins are used: (0.8, 0.8667] with confidences 0.85, 0.85 (one right), (0.5333, 0.6] with 0.6 (right).
    p = np.array([[0.85, 0.15], [0.85, 0.15], [0.4, 0.6]])
    labels = np.array([0, 1, 1])
    assert calibration_error(labels, p) == pytest.approx((abs(1 - 1.7) + abs(1 - 0.6)) / 3)
    assert calibration_error(np.array([0]), np.array([[1.0, 0.0]])) == 0.0


def test_calibration_as_in_the_paper() -> None:
    labels, logits = outputs(500, [0, 1, 2], 3, seed=2)
    p = probabilities(logits)
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == labels
    expected = 0.0
    for low, high in zip(np.linspace(0, 1, 16)[:-1], np.linspace(0, 1, 16)[1:], strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            expected += abs(confidence[inside].mean() - correct[inside].mean()) * inside.mean()
    assert calibration_error(labels, p) == pytest.approx(expected, abs=1e-12)


def test_rows_of_the_confusion_matrix_are_the_truth() -> None:
    assert confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist() == [[1, 1], [0, 1]]

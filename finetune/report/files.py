"""Writes the report folder: metrics, tables, pictures and the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.evaluate.metrics import NONE, PER_CLASS, calibration_error, predict
from finetune.files import write_atomic, write_csv, write_json, write_text
from finetune.report import plots
from finetune.report.charts import calibration_bins
from finetune.report.faults import Faults
from finetune.report.features import features_png
from finetune.report.gallery import HEATS, Picks, pick
from finetune.report.learning import thaws
from finetune.report.page import Context, render
from finetune.runs.names import ReportNames

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from markupsafe import Markup
    from numpy.typing import NDArray

    from finetune.evaluate.activations import Passage
    from finetune.evaluate.metrics import Metrics

GROUPS = 12
"""Layer groups whose output the page shows at most."""


def write_report(
    folder: Path,
    *,
    split: str,
    selected_on: bool,
    metrics: Metrics,
    predictions: tuple[Sequence[str], NDArray[np.int64], NDArray[np.float64]],
    classes: Sequence[str],
    history: Sequence[Mapping[str, Any]] = (),
    plan: tuple[Sequence[str], Sequence[Sequence[object]]] = ((), ()),
    run: Mapping[str, Any] | None = None,
    cautions: Sequence[str] = (),
    thumbnails: Callable[[Sequence[int]], Mapping[int, str]] | None = None,
    heats: Callable[[Sequence[int]], Mapping[int, str]] | None = None,
    passage: Passage | None = None,
    map_of_images: Markup | None = None,
    learning_curve: Mapping[str, Any] | None = None,
    grouping: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write `metrics.json`, `per_class.csv`, `confusion.csv`, `predictions.csv`, the pictures and `report.html`.

    Args:
        folder: where; made if absent, files of an older report replaced one by one.
        split: what was evaluated.
        selected_on: these images also chose the epoch, which the page says.
        metrics: of these predictions.
        predictions: (paths, labels int64 [N], probabilities float64 [N, C]).
        classes: names in the order of labels and probabilities.
        history: the rows of `history.csv`; without any there are no curves.
        plan: columns and rows of `plan.csv`.
        run: for the page, each key optional: name, backbone, date (or finished, ISO 8601), status, best_epoch, recipe
            (resolved), batchnorm, device, precision, cache, timings (seconds by name), versions, weights_sha256,
            freeze_proof, temperature, threshold, folder, warnings, and data as `data_summary` gives it.
        cautions: what qualifies the figures, one sentence each.
        thumbnails: makes the pictures of so many images, by their places in the predictions, as `data:` addresses.
        heats: the same, of what in them spoke for the answer.
        passage: of one picture through the network, to be shown.
        map_of_images: as `embedding_map` draws it.
        learning_curve: how good fewer images make it, as `evaluate.learning_curve` gives it; goes into `metrics.json`.
        grouping: the score of a random split beside the grouped one, as `evaluate.grouping` gives it; goes there, too.

    Returns:
        What could not be made, one line each; everything else is there. Empty as a rule.

    Raises:
        ResourceError: a file cannot be written.
    """
    paths, faults = ReportNames(folder), Faults()
    summary = {**metrics.as_dict(split), "cautions": list(cautions)}
    further = {"learning_curve": learning_curve, "grouping": grouping}
    summary |= {name: dict(entry) for name, entry in further.items() if entry is not None}
    # tables first: pictures and the page may fail, the numbers are then there all the same
    for path, write in _tables(paths, summary, metrics, predictions, classes).items():
        with faults.tolerate(path.name):
            write()
    pictures = _pictures(metrics, predictions, classes, history, passage, faults)
    for name, png in pictures.items():
        write_atomic(folder / name, png)
    picks, small, hot = Picks(), {}, {}
    with faults.tolerate("pictures of single images"):
        picks = pick(predictions[1], predictions[2])
        small = dict(thumbnails(picks.pictured())) if thumbnails else {}
    with faults.tolerate("what spoke for the mistakes"):
        hot = dict(heats(picks.mistakes[:HEATS])) if heats else {}
    with faults.tolerate(paths.page.name):
        about = {**(run or {})}
        about["warnings"] = [*(about.get("warnings") or ()), *faults.lines]
        parts = (split, selected_on, summary, metrics.confusion, predictions, history, plan, about, pictures, picks)
        write_text(paths.page, render(Context(*parts, small, hot, map_of_images), faults))
    return faults.lines


def _tables(
    paths: ReportNames,
    summary: Mapping[str, Any],
    metrics: Metrics,
    predictions: tuple[Sequence[str], NDArray[np.int64], NDArray[np.float64]],
    classes: Sequence[str],
) -> dict[Path, Callable[[], None]]:
    """File → what writes it."""
    columns = list(PER_CLASS)
    rows = ([row[name] for name in columns] for row in summary["per_class"])
    counts = ([name, *row] for name, row in zip(classes, metrics.confusion.tolist(), strict=True))
    names = ["path", "class", "predicted", "confidence", *(f"p:{name}" for name in classes)]
    return {
        paths.metrics_json: lambda: write_json(paths.metrics_json, summary),
        paths.per_class_csv: lambda: write_csv(paths.per_class_csv, columns, rows),
        paths.confusion_csv: lambda: write_csv(paths.confusion_csv, ["class", *classes], counts),
        paths.predictions_csv: lambda: write_csv(paths.predictions_csv, names, _prediction_rows(predictions, classes)),
    }


def data_summary(
    table: pd.DataFrame, folder: str = "", notes: Iterable[str] = (), bad: Iterable[tuple[str, str]] = ()
) -> dict[str, Any]:
    """The page's summary of the images.

    Args:
        table: as in `data.csv`, with `split` filled in.
        folder: the data folder, as the user named it.
        notes: of the scan and the audit, one line each.
        bad: (path, reason) of the files that were left out.
    """
    counts: dict[str, dict[str, int]] = {}
    for (split, name), count in sorted(Counter(zip(table["split"], table["class"], strict=True)).items()):
        counts.setdefault(split, {})[name] = count
    return {"folder": folder, "counts": counts, "notes": list(notes), "bad": list(bad)}


def _prediction_rows(
    predictions: tuple[Sequence[str], NDArray[np.int64], NDArray[np.float64]], classes: Sequence[str]
) -> Iterable[list[Any]]:
    """One row an image: path, true and predicted class, confidence, every probability; no answer where not finite."""
    paths, labels, probabilities = predictions
    best = predict(probabilities).tolist()
    for path, label, winner, row in zip(paths, labels.tolist(), best, probabilities, strict=True):
        values = row.tolist()
        answer = (None, None) if winner == NONE else (classes[winner], values[winner])
        yield [str(path), classes[label], *answer, *values]


def _pictures(
    metrics: Metrics,
    predictions: tuple[Sequence[str], NDArray[np.int64], NDArray[np.float64]],
    classes: Sequence[str],
    history: Sequence[Mapping[str, Any]],
    passage: Passage | None,
    faults: Faults,
) -> dict[str, bytes]:
    """File name → PNG, of those that can be drawn; one epoch makes no curve."""
    _, labels, probabilities = predictions

    def calibration() -> bytes:
        ece = calibration_error(labels, probabilities)
        return plots.calibration_png(calibration_bins(labels, probabilities), ece)

    draw: dict[str, Callable[[], bytes]] = {"confusion.png": lambda: plots.confusion_png(metrics.confusion, classes)}
    if len(history) > 1:
        draw["curves.png"] = lambda: plots.curves_png(history, [epoch for epoch, _ in thaws(history)])
    draw["calibration.png"] = calibration
    if passage is not None and passage.activations:
        draw["features.png"] = lambda: features_png(passage, GROUPS)
        draw["features-dark.png"] = lambda: features_png(passage, GROUPS, dark=True)
    pictures: dict[str, bytes] = {}
    for name, make in draw.items():
        with faults.tolerate(name):
            pictures[name] = make()
    return pictures

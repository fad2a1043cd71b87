"""Runs compared on the images that all of them were tested on: `ft.compare`, `finetune compare`."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from finetune.data.manifest import read_manifest
from finetune.errors import DataError, UsageError, option, resuming
from finetune.evaluate.compare import ALPHA, compare_answers, holm, images_needed, macro_f1, mcnemar, pooled
from finetune.files import read_json, visible
from finetune.report.comparison import sentence
from finetune.runs.folder import RunFolder
from finetune.runs.names import RUN_JSON, RunNames

MOST_NAMED = 8
"""Images that are named of those that one run was tested on and another was not."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a run, or several that differ by their seed.

    Attributes:
        name: as the user gave it.
        runs: folders, one a seed.
        tables: the answers of each, a row an image, by what identifies an image: its content and its class.
        figures: for people and `--json`: accuracy, macro F1, loss, calibration, time, size.
    """

    name: str
    runs: list[Path]
    tables: list[pd.DataFrame]
    figures: dict[str, Any]


def compare(
    *runs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], intersection: bool = False, seed: int = 0
) -> dict[str, Any]:
    """Tell whether one classifier is better than another, on the same test images.

    Args:
        *runs: two or more: a run folder each; or a list of run folders, a glob, or a folder of runs: several seeds,
            which are pooled.
        intersection: compare on the images that all were tested on, where these are not the same.
        seed: of the bootstrap.

    Returns:
        n, runs, difference (second minus first), mcnemar, per_class, flipped, verdict (`no difference`, `first` or
        `second`), sentence, images_needed; of more than two a list of these in `pairs`.

    Raises:
        UsageError: fewer than two, or no such run, or one without a report.
        DataError: they were not tested on the same images.
    """
    if len(runs) < 2:
        raise UsageError("compare: one run alone cannot be compared", "name two runs or more")
    sides = [read_side(value) for value in runs]
    images = _common(sides, intersection)
    pairs = [_pair(first, second, images, seed) for first, second in combinations(sides, 2)]
    # of many pairs some differ by chance alone
    corrected = holm([pair["mcnemar"]["p"] for pair in pairs])
    for pair, p in zip(pairs, corrected, strict=True):
        pair["mcnemar"]["p_holm"] = p
        change = pair["difference"]["accuracy"]
        pair["verdict"] = "no difference" if p >= ALPHA or change == 0 else "second" if change > 0 else "first"
        pair["sentence"] = sentence(pair)
    if len(pairs) == 1:
        return pairs[0]
    return {"n": len(images), "runs": [side.figures for side in sides], "pairs": pairs}


def read_side(value: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Side:
    """The answers of a run, or of several seeds.

    Args:
        value: see `compare`.

    Raises:
        UsageError: there is no run, or one has no report yet.
    """
    if isinstance(value, (str, os.PathLike)):
        name, folders = os.fspath(value), _runs_at(Path(value).expanduser())
    else:
        name, folders = (
            " ".join(os.fspath(one) for one in value),
            [folder for one in value for folder in _runs_at(Path(one))],
        )
    if not folders:
        raise UsageError(f"{name}: no run there (no {RUN_JSON})", "name run folders such as runs/vehicles/001")
    tables = [_answers(folder) for folder in folders]
    return Side(name, folders, tables, _figures(name, folders))


def _runs_at(path: Path) -> list[Path]:
    """The run folder at `path`, the runs in the folder at `path`, or those that it matches as a glob."""
    if (path / RUN_JSON).is_file():
        return [path]
    paths = sorted(path.iterdir()) if path.is_dir() else [Path(match) for match in sorted(glob.glob(str(path)))]
    return [folder for folder in paths if RunNames(folder).report.predictions_csv.is_file()]


def _answers(run: Path) -> pd.DataFrame:
    """Path, class and predicted class of each test image of a run, by (content, class, copy)."""
    names = RunNames(run)
    if not names.report.predictions_csv.is_file():
        raise UsageError(f"{run}: it has no report yet", f"let it finish: {resuming(run)}")
    text = {"path": str, "class": str, "predicted": str}
    columns = [*text, "confidence"]
    table = pd.read_csv(names.report.predictions_csv, dtype=text, usecols=columns, keep_default_na=False)
    manifest = pd.read_csv(names.data_csv, dtype=str, usecols=["path", "sha256"], keep_default_na=False)
    content = dict(zip(manifest["path"], manifest["sha256"], strict=True))
    seen: Counter[tuple[str, str]] = Counter()
    keys = []
    for path, name in zip(table["path"], table["class"], strict=True):
        # by content, not by path: the folder may have moved or been renamed between two runs
        key = (content.get(path, path), name)
        keys.append((*key, seen[key]))
        seen[key] += 1
    table.index = pd.Index(keys, tupleize_cols=False)
    return table


def _figures(name: str, folders: Sequence[Path]) -> dict[str, Any]:
    """The figures of a side: means over its seeds."""
    metrics = [read_json(RunNames(folder).report.metrics_json) for folder in folders]
    records = [RunFolder.open(folder).record for folder in folders]
    sizes = [path.stat().st_size for folder in folders for path in RunNames(folder).model.glob("*.safetensors")]
    seconds = [record.timings["train"] for record in records if record.timings and "train" in record.timings]

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    keys = ("accuracy", "macro_f1", "loss", "ece", "brier")
    return {
        "run": name,
        "seeds": len(folders),
        "split": metrics[0].get("split"),
        "backbone": records[0].recipe.get("model", {}).get("backbone"),
        **{key: mean([figures.get(key) for figures in metrics]) for key in keys},
        "temperature": mean([record.temperature for record in records]),
        "train_seconds": mean(seconds),
        "model_bytes": mean(sizes),
    }


def _common(sides: Sequence[Side], intersection: bool) -> list[Any]:
    """Keys of the images that all runs were tested on, in the first run's order.

    Raises:
        DataError: there are others, and `intersection` is off; or there is none.
    """
    tables = [(folder, table) for side in sides for folder, table in zip(side.runs, side.tables, strict=True)]
    shared = set(tables[0][1].index).intersection(*(table.index for _, table in tables[1:]))
    differing = []
    for folder, table in tables:
        own = [str(path) for key, path in table["path"].items() if key not in shared]
        if own:
            named = ", ".join(map(visible, own[:MOST_NAMED])) + (", …" if len(own) > MOST_NAMED else "")
            differing.append(f"{folder}: {len(own):,} of its {len(table):,} test images are not those of all: {named}")
    if differing and not (intersection and shared):
        remedy = f"test all on the same images, or compare on what they share: {option('intersection')}"
        raise DataError(differing, remedy if shared else "test all on the same images: the same folder and split seed")
    return [key for key in tables[0][1].index if key in shared]


def _pair(first: Side, second: Side, images: list[Any], seed: int) -> dict[str, Any]:
    """The entries of a comparison of two sides, without the verdict."""
    tables = [[table.loc[images] for table in side.tables] for side in (first, second)]
    labels, answers, classes = _as_arrays(tables)
    compared = compare_answers(labels, answers[0], answers[1], len(classes), seed)
    hits = [(side == labels).mean(axis=0) for side in answers]
    own = [
        {**side.figures, **_on(labels, given, len(classes))}
        for side, given in zip((first, second), answers, strict=True)
    ]
    return {
        "n": len(labels),
        "runs": own,
        "difference": {
            "accuracy": compared.accuracy,
            "accuracy_ci95": list(compared.accuracy_ci95),
            "macro_f1": compared.macro_f1,
            "macro_f1_ci95": list(compared.macro_f1_ci95),
        },
        "mcnemar": {
            "p": compared.p,
            "only_first": compared.only_first,
            "only_second": compared.only_second,
            "method": "seeds and images" if compared.seeds else "exact",
        },
        "per_class": _per_class(labels, hits, classes),
        "flipped": _flipped(tables, hits),
        "verdict": "",
        "sentence": "",
        "images_needed": images_needed(len(labels), compared),
    }


def _as_arrays(tables: Sequence[Sequence[pd.DataFrame]]) -> tuple[np.ndarray, list[np.ndarray], list[str]]:
    """Labels, int64 [N], the answers of each side, int64 [seeds, N], and the classes that they are places in."""
    truth = tables[0][0]["class"]
    named = {name for side in tables for table in side for name in table["predicted"] if name}
    classes = list(dict.fromkeys([*sorted(set(truth)), *sorted(named)]))
    index_of = {name: index for index, name in enumerate(classes)}
    answers = [
        np.stack([table["predicted"].map(lambda name: index_of.get(name, -1)).to_numpy(np.int64) for table in side])
        for side in tables
    ]
    return truth.map(index_of).to_numpy(np.int64), answers, classes


def summarise_seeds(runs: Sequence[Path]) -> dict[str, Any]:
    """Mean, spread and interval over runs that differ by their seed.

    Args:
        runs: two folders or more, tested on the same images.

    Returns:
        n, split, runs, accuracy and macro_f1 (each: mean, sd, lowest, highest, ci95).

    Raises:
        UsageError: one has no report. DataError: they were not tested on the same images.
    """
    side = read_side(runs)
    images = _common([side], intersection=False)
    labels, answers, classes = _as_arrays([[table.loc[images] for table in side.tables]])
    summary = pooled(labels, answers[0], len(classes))
    return {"n": len(labels), "split": side.figures["split"], "runs": [str(run) for run in runs], **summary}


def _on(labels: np.ndarray, answers: np.ndarray, classes: int) -> dict[str, float]:
    """Accuracy and macro F1 on the images that are compared, means over seeds."""
    scores = [macro_f1(labels, row, classes) for row in answers]
    return {"accuracy": float((answers == labels).mean()), "macro_f1": float(np.mean(scores))}


def _per_class(labels: np.ndarray, hits: Sequence[np.ndarray], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Recall of each class on both sides, and whether the difference is more than chance, corrected for all classes."""
    rows: list[dict[str, Any]] = []
    for index, name in enumerate(classes):
        own = labels == index
        if not own.any():
            continue
        first, second = (side[own] for side in hits)
        p = mcnemar(int((first > second).sum()), int((second > first).sum()))
        recalls = {"first": float(first.mean()), "second": float(second.mean())}
        rows.append(
            {
                "class": name,
                "support": int(own.sum()),
                **recalls,
                "difference": recalls["second"] - recalls["first"],
                "p": p,
            }
        )
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    return rows


def _flipped(tables: Sequence[Sequence[pd.DataFrame]], hits: Sequence[np.ndarray]) -> dict[str, list[dict[str, str]]]:
    """The images that only one side gets right (more often, over seeds), with the answers of each side's first run."""
    first, second = tables[0][0], tables[1][0]
    rows = zip(first["path"], first["class"], first["predicted"], second["predicted"], hits[0], hits[1], strict=True)
    flipped: dict[str, list[dict[str, str]]] = {"only_first": [], "only_second": []}
    for path, truth, first_answer, second_answer, right_first, right_second in rows:
        if right_first != right_second:
            side = "only_first" if right_first > right_second else "only_second"
            flipped[side].append({"path": path, "class": truth, "first": first_answer, "second": second_answer})
    return flipped


def image_files(side: Side) -> dict[str, Path]:
    """Path in the tables → file, of a run's images as far as they are files; empty where the folder is gone."""
    names = RunNames(side.runs[0])
    root = Path(str(RunFolder.open(side.runs[0]).record.recipe["data"].get("folder") or ""))
    if not root.is_dir():
        return {}
    real = read_manifest(names.data_csv, root, [])["path"]
    shown = pd.read_csv(names.data_csv, dtype=str, usecols=["path"], keep_default_na=False)["path"]
    return {shown_path: root / path for shown_path, path in zip(shown, real, strict=True)}

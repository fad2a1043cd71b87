"""The report folder: what is in its files, and that no name breaks them."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score, log_loss, recall_score

from finetune.evaluate.metrics import compute_metrics
from finetune.report.charts import calibration_bins
from finetune.report.files import data_summary, write_report

HARMLESS = [f"class {letter}" for letter in "abcdefghijklmno"]
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</table></body><!--",
    "' style='x",
    "{{ 7 * 7 }}{% endraw %}",
    "$\\frac{1}{2$ 100 $",
    "two\nlines\r\n",
    "\x1b[31mred\x07",
    "\u202eright to left",
    "شاحنة",
    "救急車 🚑",
    "caf\udce9",
    "=SUM(A1:A9)",
    "https://example.org/x.png",
    "a" * 255,
]
HISTORY = [
    {
        "epoch": epoch,
        "phase": 0 if epoch < 2 else 1,
        "lr": 1e-3,
        "train_loss": 1.5 / (1 + epoch),
        "val_loss": None if epoch == 1 else 1.7 / (1 + epoch),
        "val_accuracy": 0.5 + 0.1 * epoch,
        "val_macro_f1": 0.4 + 0.1 * epoch,
        "seconds": 2.0,
        "images_per_second": 100.0,
    }
    for epoch in range(4)
]
PLAN = (
    ["group", "parameters", "phase 0: epochs 0-1", "phase 1: epochs 2-3"],
    [["stem", 448, "frozen", "frozen"], ["layer4", 9000, "frozen", "0.0001"], ["head", 700, "0.001", "0.001"]],
)


def answers(classes: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels, none of them the last class, and random but mostly right probabilities."""
    random = np.random.default_rng(0)
    labels = np.sort(random.integers(0, classes - 1, n))
    logits = random.normal(size=(n, classes))
    logits[np.arange(n), labels] += 3.0
    return labels, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def write(folder: Path, classes: Sequence[str], *, split: str = "test", n: int = 203, **more: Any) -> None:
    """A report on `n` such answers."""
    labels, chances = answers(len(classes), n)
    paths = [f"{classes[label]}/{index:04d}.jpg" for index, label in enumerate(labels)]
    about = {"selected_on": False, "history": HISTORY, "plan": PLAN, "run": run(classes)} | more
    metrics = compute_metrics(labels, chances, list(classes))
    parts: Any = {"metrics": metrics, "predictions": (paths, labels, chances), "classes": classes, **about}
    assert write_report(folder, split=split, **parts) == []


def run(classes: Sequence[str]) -> dict[str, Any]:
    """What a run knows of itself, with the classes' names wherever a name may turn up."""
    name = classes[0]
    return {
        "name": name,
        "backbone": f"timm/{name}",
        "date": "2026-01-02",
        "seed": 0,
        "device": "cpu",
        "recipe": {"data": {"folder": f"data/{name}", "classes": list(classes)}, "train": {"lr": 1e-3, "loss": "bce"}},
        "timings": {"train_seconds": 3723.0},
        "versions": {"torch": "2.14.1"},
        "warnings": [f"{one} is odd" for one in classes],
        "freeze_proof": {f"stem {name}": {"sha256_before": "a" * 64, "sha256_after": "a" * 64}},
        "data": {
            "folder": f"data/{name}",
            "counts": {"train": dict.fromkeys(classes, 7), "test": dict.fromkeys(classes, 3)},
            "notes": [f"{one} holds duplicates" for one in classes],
            "bad": [(f"{one}/x.jpg", "truncated") for one in classes],
        },
    }


LOADING = ("src", "href", "srcset", "data", "action")
"""Attributes whose address a browser fetches."""


class Tags(HTMLParser):
    """The opening tags of a page, each with the names of its attributes, and all that it would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.loads: list[str] = []
        self.text = ""
        self.policy = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        if ("http-equiv", "Content-Security-Policy") in attrs:
            self.policy = dict(attrs)["content"] or ""
        self.loads += [value or "" for name, value in attrs if name in LOADING and not (value or "").startswith("#")]

    def handle_data(self, data: str) -> None:
        self.text += data


def table(path: Path) -> list[list[str]]:
    """The records of a CSV file that must be valid UTF-8."""
    return list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8"), newline="")))


def test_predictions_give_the_metrics_back(tmp_path: Path) -> None:
    write(tmp_path, HARMLESS[:5], n=77)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    heads, *rows = table(tmp_path / "predictions.csv")
    columns = [f"p:{name}" for name in HARMLESS[:5]]
    frame = pd.DataFrame(rows, columns=heads).astype(dict.fromkeys(["confidence", *columns], float))
    assert list(frame.columns) == ["path", "class", "predicted", "confidence", *columns]
    present = sorted(set(frame["class"]))
    assert accuracy_score(frame["class"], frame["predicted"]) == pytest.approx(metrics["accuracy"], abs=1e-9)
    macro = f1_score(frame["class"], frame["predicted"], labels=present, average="macro")
    assert macro == pytest.approx(metrics["macro_f1"], abs=1e-9)
    recalls = recall_score(frame["class"], frame["predicted"], labels=present, average="macro")
    assert recalls == pytest.approx(metrics["balanced_accuracy"], abs=1e-9)
    loss = log_loss(frame["class"], frame[columns].to_numpy(), labels=HARMLESS[:5])
    assert loss == pytest.approx(metrics["loss"], abs=1e-9)
    assert (frame["confidence"] == frame[columns].max(axis=1)).all()


def test_numbers_are_written_in_full_precision(tmp_path: Path) -> None:
    write(tmp_path, HARMLESS[:3], n=20)
    written = np.array([[float(value) for value in row[4:]] for row in table(tmp_path / "predictions.csv")[1:]])
    assert (written == answers(3, 20)[1]).all()


def test_confusion_has_the_truth_in_rows(tmp_path: Path) -> None:
    labels = np.array([0, 0, 1])
    chances = np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])
    metrics = compute_metrics(labels, chances, ["ant", "bee"])
    predictions = (["a", "b", "c"], labels, chances)
    kwargs: Any = {"metrics": metrics, "predictions": predictions, "classes": ["ant", "bee"]}
    write_report(tmp_path, split="test", selected_on=False, **kwargs)
    assert table(tmp_path / "confusion.csv") == [["class", "ant", "bee"], ["ant", "0", "2"], ["bee", "0", "1"]]


def test_a_class_without_images_has_empty_cells_and_comes_last_on_the_page(tmp_path: Path) -> None:
    write(tmp_path, HARMLESS[:4])
    rows = {row[0]: row for row in table(tmp_path / "per_class.csv")}
    heads = rows["class"]
    assert heads[:5] == ["class", "support", "precision", "recall", "f1"]
    empty = dict(zip(heads, rows["class d"], strict=True))
    assert empty["support"] == "0"
    assert empty["recall"] == empty["f1"] == empty["f1_low"] == ""
    assert json.loads((tmp_path / "metrics.json").read_text())["per_class"][3]["f1"] is None
    assert "no images here" in (tmp_path / "report.html").read_text()


def test_everything_that_the_design_names_is_there_and_whole(tmp_path: Path) -> None:
    write(tmp_path / "new" / "report", HARMLESS)
    names = {path.name for path in (tmp_path / "new" / "report").iterdir()}
    tables = {"metrics.json", "per_class.csv", "confusion.csv", "predictions.csv", "report.html"}
    assert names == tables | {"confusion.png", "curves.png", "calibration.png"}
    for name in ("confusion.png", "curves.png", "calibration.png"):
        Image.open(tmp_path / "new" / "report" / name).verify()


def test_the_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a", HARMLESS)
    write(tmp_path / "b", HARMLESS)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_no_name_adds_an_element_or_a_record(tmp_path: Path) -> None:
    write(tmp_path / "harmless", HARMLESS)
    write(tmp_path / "hostile", HOSTILE)
    pages = {kind: (tmp_path / kind / "report.html").read_bytes().decode("utf-8") for kind in ("harmless", "hostile")}
    tame, wild = Tags(pages["harmless"]), Tags(pages["hostile"])
    assert sorted(tame.tags) == sorted(wild.tags)
    assert "<script>alert(1)</script>" in wild.text
    assert "{{ 7 * 7 }}{% endraw %}" in wild.text
    assert "caf\\udce9" in wild.text
    for name in ("per_class.csv", "confusion.csv", "predictions.csv"):
        shapes = [[len(row) for row in table(tmp_path / kind / name)] for kind in ("harmless", "hostile")]
        assert shapes[0] == shapes[1]
        assert not any(cell[:1] in ("=", "+", "@") for row in table(tmp_path / "hostile" / name) for cell in row)
    raw = json.loads((tmp_path / "hostile" / "metrics.json").read_bytes().decode("utf-8"))
    assert [row["class"] for row in raw["per_class"]] == HOSTILE


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    write(tmp_path, [*HARMLESS, *(f"more {index}" for index in range(60))])
    page = (tmp_path / "report.html").read_text()
    assert Tags(page).loads
    assert all(address.startswith("data:image/png;base64,") for address in Tags(page).loads)
    assert not re.search(r"https?://|url\(|@import|<script\s|<link", page)
    script = page.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in Tags(page).policy


@pytest.mark.parametrize(("selected_on", "split"), [(True, "val"), (False, "test")])
def test_the_page_says_whether_it_was_selected_on(tmp_path: Path, selected_on: bool, split: str) -> None:
    write(tmp_path, HARMLESS[:4], split=split, selected_on=selected_on)
    text = Tags((tmp_path / "report.html").read_text()).text
    assert ("val: also used to choose the epoch" in text) is selected_on
    assert ("test: never seen in training" in text) is not selected_on


def test_a_changed_frozen_layer_is_called_changed(tmp_path: Path) -> None:
    proof = {"stem": {"sha256_before": "a" * 64, "sha256_after": "b" * 64}}
    write(tmp_path, HARMLESS[:3], run={"freeze_proof": proof})
    text = Tags((tmp_path / "report.html").read_text()).text
    assert "✗ changed" in text
    assert "✓ identical" not in text


@pytest.mark.parametrize(
    "more", [{"run": {}}, {"run": None}, {"history": [], "plan": ((), ())}, {"history": HISTORY[:1]}]
)
def test_what_is_not_known_is_left_out(tmp_path: Path, more: Mapping[str, Any]) -> None:
    write(tmp_path, HARMLESS[:3], **more)
    text = Tags((tmp_path / "report.html").read_text()).text
    assert "None" not in text
    assert (tmp_path / "curves.png").exists() is (len(more.get("history", HISTORY)) > 1)


def test_outputs_that_are_not_finite_are_wrong_answers_not_crashes(tmp_path: Path) -> None:
    labels = np.array([0, 1, 1])
    chances = np.array([[0.9, 0.1], [0.2, 0.8], [np.nan, np.nan]])
    kwargs: Any = {"predictions": (["a", "b", "c"], labels, chances), "classes": ["ant", "bee"]}
    write_report(
        tmp_path, split="test", selected_on=False, metrics=compute_metrics(labels, chances, ["ant", "bee"]), **kwargs
    )
    assert table(tmp_path / "predictions.csv")[3] == ["c", "bee", "", "", "", ""]
    assert "1 image is left out" in (tmp_path / "report.html").read_text()


def test_calibration_bins_are_those_of_the_error() -> None:
    labels, chances = answers(7, 203)
    bins = calibration_bins(labels, chances)
    error = sum(one.count * abs(one.accuracy - one.confidence) for one in bins) / len(labels)
    assert error == pytest.approx(compute_metrics(labels, chances, HARMLESS[:7], intervals=False).ece, abs=1e-12)


def test_data_summary_counts_each_class_in_each_split() -> None:
    frame = pd.DataFrame({"split": ["train", "val", "train"], "class": ["bee", "bee", "ant"]})
    summary = data_summary(frame, "data/x", ["1 duplicate"], [("bee/1.jpg", "empty")])
    assert summary["counts"] == {"train": {"ant": 1, "bee": 1}, "val": {"bee": 1}}
    assert summary["notes"] == ["1 duplicate"]

"""What `ft.run` returns: a path with the run's record, tables and classifier at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import finetune as ft
from finetune.runs.reporter import Reporter
from tests import makers

CLASSES = ["007", "<b>", "nan"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> ft.Run:
    folder = tmp_path_factory.mktemp("run")
    makers.class_folders(folder / "images", dict.fromkeys(CLASSES, 8))
    recipe = {
        "name": "tiny",
        "data": {"folder": str(folder / "images"), "split": {"val": 0.25, "test": 0.25}},
        "model": {"backbone": "timm/test_resnet", "weights": "none", "preprocess": {"size": 32}},
        "train": {"epochs": 2, "batch_size": 4, "device": "cpu"},
    }
    return ft.run(recipe, out=folder / "o", reporter=Reporter(say=lambda text: None))


def test_a_run_is_a_path(finished: ft.Run) -> None:
    assert os.fspath(finished) == str(finished) == str(finished.path)
    assert (finished / "report").is_dir()
    assert finished.report == finished.path / "report" / "report.html"
    assert ft.load(finished).classes == CLASSES
    assert ft.resume(finished, reporter=Reporter(say=lambda text: None)) == finished


def test_its_record_and_tables_are_those_of_the_files(finished: ft.Run) -> None:
    told = json.loads((finished / "run.json").read_text())
    assert finished.record.as_dict() == told
    assert finished.record.status == finished.record["status"] == "finished"
    assert finished.metrics == json.loads((finished / "report" / "metrics.json").read_text())
    assert finished.per_class["class"].tolist() == CLASSES  # no class is read as a number or as missing
    assert np.allclose(finished.per_class["f1"], [row["f1"] for row in finished.metrics["per_class"]])
    assert finished.history["epoch"].tolist() == [0, 1]
    right = finished.predictions["class"] == finished.predictions["predicted"]
    assert right.mean() == finished.metrics["accuracy"]
    chances = finished.predictions[[f"p:{name}" for name in CLASSES]]
    assert np.allclose(chances.sum(axis=1), 1)


def test_its_classifier_answers_as_the_run_did(finished: ft.Run) -> None:
    first = finished.predictions.iloc[0]
    image = Path(finished.record.recipe["data"]["folder"]) / first["path"]
    assert finished.classifier().predict(image).label == first["predicted"]


def test_it_shows_itself(finished: ft.Run) -> None:
    assert f"accuracy {finished.metrics['accuracy']:.3f}" in repr(finished)
    assert "\n" not in repr(finished)
    html = finished._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b></td>" not in html
    assert html.count("<tr") == 1 + len(CLASSES)


def test_a_run_is_opened_by_its_folder_only(finished: ft.Run, tmp_path: Path) -> None:
    assert ft.Run.open(str(finished)) == finished
    with pytest.raises(ft.FinetuneError, match="no run there"):
        ft.Run.open(tmp_path)


def test_an_unfinished_run_says_what_it_has_not_written(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"status": "stopped", "recipe": {}}))
    run = ft.Run.open(tmp_path)
    assert "stopped" in repr(run)
    assert "stopped" in run._repr_html_()
    for name in ("metrics", "per_class", "predictions", "history", "report"):
        with pytest.raises(ft.FinetuneError, match="not written yet"):
            getattr(run, name)


def test_keys_of_another_version_survive_in_the_record(tmp_path: Path) -> None:
    values = {"status": "stopped", "recipe": {"name": "x"}, "invented_later": [1, 2]}
    (tmp_path / "run.json").write_text(json.dumps(values))
    assert ft.Run.open(tmp_path).record.as_dict().items() >= values.items()

"""Trackers get what history.csv gets, and the report; one that fails ends no run."""

from __future__ import annotations

import csv

import pytest

import finetune as ft
from finetune.deliver import tracking
from finetune.errors import ResourceError
from tests.makers import class_folders


@pytest.fixture
def recipe(tmp_path) -> dict:
    folder = class_folders(tmp_path / "in", {"cat": 8, "dog": 8})
    return {
        "name": "pets",
        "data": {"folder": str(folder), "augment": "none"},
        "model": {"backbone": "small/logistic"},
        "train": {"epochs": 2, "optimizer": "sgd"},
    }


def history(run) -> list[dict[str, str]]:
    with open(run.path / "history.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.filterwarnings("ignore")  # what the libraries say to each other is not ours
def test_tensorboard_and_mlflow_have_the_figures_of_history(recipe, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = ft.run({**recipe, "log": ["tensorboard", "mlflow"]}, out=tmp_path / "run")
    rows = history(run)
    assert len(rows) == 2

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    for key in ("train_loss", "val_loss", "val_accuracy", "lr"):
        told = [(event.step, event.value) for event in events.Scalars(key)]
        assert told == [(int(row["epoch"]), pytest.approx(float(row[key]), rel=1e-6)) for row in rows]
    assert "report/confusion" in events.Tags()["images"]

    from mlflow.tracking import MlflowClient

    client = MlflowClient((run.path / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("pets")
    (kept,) = client.search_runs([experiment.experiment_id])
    for key in ("train_loss", "val_macro_f1"):
        told = [(one.step, one.value) for one in client.get_metric_history(kept.info.run_id, key)]
        assert sorted(told) == [(int(row["epoch"]), float(row[key])) for row in rows]
    assert kept.data.metrics["report_accuracy"] == run.metrics["accuracy"]
    assert kept.data.params["model.backbone"] == "small/logistic"
    assert "report/report.html" in {one.path for one in client.list_artifacts(kept.info.run_id, "report")}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("when", ["start", "epoch", "report"])
def test_a_tracker_that_fails_ends_no_run(recipe, tmp_path, monkeypatch, capsys, when) -> None:
    def broken(*arguments):
        raise ConnectionError("no route")

    def make(*arguments):
        steps = {"epoch": lambda row: None, "report": lambda files, metrics: None, when: broken}
        return broken() if when == "start" else tracking.Tracker("mlflow", steps["epoch"], steps["report"])

    monkeypatch.setattr(tracking, "_mlflow", make)
    run = ft.run({**recipe, "log": ["mlflow"]}, out=tmp_path / "run")
    assert run.record.status == "finished"
    assert capsys.readouterr().err.count("mlflow failed and is left out") == 1


def test_a_tracker_that_is_not_installed_is_refused_before_there_is_a_run(recipe, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(tracking.MODULES, "mlflow", "no_such_module")
    with pytest.raises(ResourceError, match=r"finetune-toolkit\[mlflow\]"):
        ft.run({**recipe, "log": ["mlflow"]}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()

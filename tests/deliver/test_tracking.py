"""Trackers get what history.csv gets, and the report; one that fails ends no run."""

from __future__ import annotations

import csv
import json
import re
import shlex
import struct
from collections.abc import Iterator
from pathlib import Path

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


def offline_records(path: Path) -> Iterator[bytes]:
    """The records of a file of W&B: LevelDB's log format behind 7 bytes of header."""
    content, place, record = path.read_bytes(), 7, b""
    assert content.startswith(b":W&B")
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


@pytest.mark.filterwarnings("ignore")
def test_wandb_without_an_account_keeps_the_figures_in_the_run_folder(recipe, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "NETRC"):
        monkeypatch.delenv(variable, raising=False)
    run = ft.run({**recipe, "log": ["wandb"]}, out=tmp_path / "run")
    assert "wandb failed" not in capsys.readouterr().err
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = (run.path / "wandb").glob("offline-run-*/*.wandb")
    records = [Record.FromString(raw) for raw in offline_records(file)]
    told = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    rows = history(run)
    assert [one["_step"] for one in told] == [int(row["epoch"]) for row in rows] == [0, 1]
    for key in ("train_loss", "val_loss", "val_macro_f1", "lr"):
        assert [one[key] for one in told] == [float(row[key]) for row in rows]
    (artifact,) = [record.artifact for record in records if record.WhichOneof("record_type") == "artifact"]
    assert "report.html" in {entry.path for entry in artifact.manifest.contents}
    (begun,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert (begun.run_id, begun.project) == (run.record.id, "pets")


@pytest.mark.filterwarnings("ignore")
def test_the_guide_runs(recipe, tmp_path, monkeypatch, cli) -> None:
    """Every command of docs/tracking.md that starts a run."""
    class_folders(tmp_path / "photos", {"cat": 8, "dog": 8})
    (tmp_path / "photos.yaml").write_text(json.dumps({**recipe, "data": {"folder": "photos", "augment": "none"}}))
    guide = (Path(__file__).parents[2] / "docs/tracking.md").read_text("utf-8")
    commands = re.findall(r"^    finetune (run .*?)(?: +#.*)?$", guide, flags=re.MULTILINE)
    assert len(commands) == 3
    for number, command in enumerate(commands, 1):
        done = cli(*shlex.split(command), env={"HOME": str(tmp_path / "home"), "WANDB_MODE": "offline"})
        assert (done.rc, "failed" in done.err) == (0, False), done.err
        (named,) = re.search(r"log=\[(\w+)\]", command).groups()
        assert (tmp_path / "runs" / "pets" / f"{number:03}" / named).is_dir()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("when", ["start", "epoch", "report"])
def test_a_tracker_that_fails_ends_no_run(recipe, tmp_path, monkeypatch, capsys, when) -> None:
    def broken(*arguments):
        raise ConnectionError("no route")

    def make(*arguments):
        steps = {"epoch": lambda row: None, "report": lambda files, metrics: None, when: broken}
        return broken() if when == "start" else tracking.Tracker("mlflow", steps["epoch"], steps["report"])

    monkeypatch.setitem(tracking.MAKERS, "mlflow", make)
    run = ft.run({**recipe, "log": ["mlflow"]}, out=tmp_path / "run")
    assert run.record.status == "finished"
    assert capsys.readouterr().err.count("mlflow failed and is left out") == 1


def test_a_tracker_that_is_not_installed_is_refused_before_there_is_a_run(recipe, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(tracking.MODULES, "mlflow", "no_such_module")
    with pytest.raises(ResourceError, match=r"finetune-toolkit\[mlflow\]"):
        ft.run({**recipe, "log": ["mlflow"]}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()

"""The road from a folder of images to a report, as a user walks it."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from sklearn import metrics

from tests import makers


def read(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def done(job: Path, cli: Any) -> Path:
    """A finished run."""
    before = makers.tree_hash(job / "images")
    result = cli("run", "job.yaml", "--out", "o", cwd=job)
    assert result.rc == 0, result.err
    assert "Kept epoch " in result.err
    assert makers.tree_hash(job / "images") == before
    return job / "o"


def test_a_run_leaves_what_the_design_says(done: Path, cli: Any) -> None:
    record = json.loads((done / "run.json").read_text())
    assert record["status"] == "finished"
    names = {str(path.relative_to(done)) for path in done.rglob("*") if path.is_file()}
    assert {
        "recipe.yaml",
        "data.csv",
        "plan.csv",
        "history.csv",
        "model/model.safetensors",
        "model/model.json",
        "checkpoints/best.pth",
        "checkpoints/best.json",
        "report/metrics.json",
        "report/per_class.csv",
        "report/confusion.csv",
        "report/predictions.csv",
        "report/report.html",
    } <= names
    assert [row["epoch"] for row in read(done / "history.csv")] == ["0", "1", "2"]
    assert set(read(done / "data.csv")[0]) == {"path", "class", "split", "sha256", "bytes", "width", "height", "mode"}
    plan = read(done / "plan.csv")
    assert [row["group"] for row in plan] == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    assert [list(row.values())[2:] for row in plan][-3:] == [["frozen", "0.01"], ["frozen", "0.01"], ["0.01", "0.01"]]
    again = cli("run", done / "recipe.yaml", "--out", "again", cwd=done.parent)
    assert again.rc == 0
    assert json.loads((done.parent / "again" / "run.json").read_text())["weights_sha256"] == record["weights_sha256"]


def test_frozen_means_frozen(done: Path) -> None:
    record = json.loads((done / "run.json").read_text())
    assert set(record["freeze_proof"]) == {"stem", "layer1", "layer2"}
    assert all(pair["sha256_before"] == pair["sha256_after"] for pair in record["freeze_proof"].values())


def test_the_numbers_follow_from_the_predictions(done: Path) -> None:
    found = json.loads((done / "report" / "metrics.json").read_text())
    rows = read(done / "report" / "predictions.csv")
    truth, predicted = [row["class"] for row in rows], [row["predicted"] for row in rows]
    classes = ["ant", "bee", "cat"]
    chances = np.array([[float(row[f"p:{name}"]) for name in classes] for row in rows])
    close = {"rel": 0, "abs": 1e-9}
    assert found["split"] == "test"
    assert found["n"] == len(rows) == 6
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, predicted), **close)
    macro = metrics.f1_score(truth, predicted, average="macro", labels=classes, zero_division=0)
    assert found["macro_f1"] == pytest.approx(macro, **close)
    assert found["loss"] == pytest.approx(metrics.log_loss(truth, chances, labels=classes), **close)
    assert [row["predicted"] for row in rows] == [classes[i] for i in chances.argmax(axis=1)]


def test_predict_and_evaluate_agree_with_the_report(done: Path, cli: Any) -> None:
    rows = read(done / "report" / "predictions.csv")
    result = cli("predict", "o", *[f"images/{row['path']}" for row in rows], "--csv", cwd=done.parent)
    assert result.rc == 0, result.err
    again = list(csv.DictReader(result.out.splitlines()))
    for row, other in zip(rows, again, strict=True):
        assert row["predicted"] == other["predicted"]
        assert float(row["confidence"]) == pytest.approx(float(other["confidence"]), abs=1e-4)
    evaluated = json.loads(cli("evaluate", "o", "--json", cwd=done.parent).out)
    assert evaluated["accuracy"] == json.loads((done / "report" / "metrics.json").read_text())["accuracy"]
    bundle = cli("predict", "o/model", "images", "--json", cwd=done.parent)
    assert len(json.loads(bundle.out)["predictions"]) == 24


def test_a_file_that_is_no_image_is_a_row_with_an_error(done: Path, cli: Any) -> None:
    (done.parent / "text.jpg").write_text("no image")
    arguments = ("predict", "o", "text.jpg", "images/ant", "--json")
    result = cli(*arguments, cwd=done.parent)
    rows = json.loads(result.out)["predictions"]
    assert result.rc == 0
    assert [row["error"] is None for row in rows] == [False] + [True] * 8
    assert cli(*arguments, "--strict", cwd=done.parent).rc == 3


def test_checkpoints_and_bundle_load_into_plain_timm(done: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    for path in sorted((done / "checkpoints").glob("*.pth")):
        manifest = json.loads(path.with_suffix(".json").read_text())
        assert manifest["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        model.load_state_dict(torch.load(path)["model_state_dict"], strict=True)
    model.load_state_dict(load_file(done / "model" / "model.safetensors"), strict=True)
    assert len(list((done / "checkpoints").glob("*.pth"))) == 3


def test_a_run_folder_serves_as_the_next_backbone(done: Path, cli: Any) -> None:
    makers.class_folders(done.parent / "others", {"dog": 8, "elk": 8}, seed=900)
    weights = load_file(done / "model" / "model.safetensors")
    more = ("-o", "data.folder=others", "-o", "model.backbone=o", "-o", "model.weights=default")
    flags = ("-o", "model.unfreeze={head: 0}", "--epochs", "1", "--out", "next")
    result = cli("run", "job.yaml", *more, *flags, cwd=done.parent)
    assert result.rc == 0, result.err
    after = load_file(done.parent / "next" / "model" / "model.safetensors")
    assert all(torch.equal(after[name], value) for name, value in weights.items() if not name.startswith("fc."))
    assert after["fc.weight"].shape[0] == 2


def test_verify_finds_what_is_broken(done: Path, cli: Any) -> None:
    assert cli("verify", "o", cwd=done.parent).rc == 0
    weights = done / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    result = cli("verify", "o", cwd=done.parent)
    assert result.rc == 4
    assert "model.safetensors" in result.err


def test_flags_do_what_plan_shows(job: Path, cli: Any) -> None:
    flags = ("--freeze", "layer4", "--unfreeze", "layer2.*@2", "-o", "model.unfreeze={all: 1, head: 0}")
    shown = json.loads(cli("plan", "job.yaml", *flags, "--json", cwd=job).out)
    assert cli("run", "job.yaml", *flags, "--out", "o", cwd=job).rc == 0
    written = [list(row.values()) for row in read(job / "o" / "plan.csv")]
    assert written == [[str(value) for value in row] for row in shown["rows"]]
    assert next(row for row in written if row[0] == "layer4")[2:] == ["frozen", "frozen"]
    again = cli("run", "o/recipe.yaml", "--out", "o2", cwd=job)
    assert again.rc == 0
    assert (job / "o2" / "plan.csv").read_text() == (job / "o" / "plan.csv").read_text()


@pytest.mark.parametrize("cache", ["auto", "off", "{views: 1}", "{ram_gb: 0, disk_gb: 0.0001}"])
def test_plan_says_what_the_run_will_keep(job: Path, cli: Any, cache: str) -> None:
    flags = ("-o", f"train.cache={cache}", "--epochs", "6", "-o", "model.unfreeze={head: 0, last:1: 1, all: 5}")
    before = makers.tree_hash(job)
    shown, dry = cli("plan", "job.yaml", *flags, cwd=job), cli("run", "job.yaml", *flags, "--dry-run", cwd=job)
    figures = json.loads(cli("plan", "job.yaml", *flags, "--json", cwd=job).out)["cache"]
    assert makers.tree_hash(job) == before
    lines = [line for line in shown.out.splitlines() if line.startswith("phase ")]
    assert len(lines) == 3
    assert [line for line in dry.out.splitlines() if line.startswith("phase ")] == lines
    result = cli("run", "job.yaml", *flags, "--out", "o", cwd=job)
    assert [line for line in result.err.splitlines() if line.startswith("phase ")] == lines
    kept = json.loads((job / "o" / "run.json").read_text())["cache"]
    assert max(phase["bytes"] for phase in figures) == kept["bytes"]
    assert all(bool(phase["reason"]) != phase["train"] for phase in figures)


def test_without_images_plan_says_that_it_cannot_know(job: Path, cli: Any) -> None:
    (job / "job.yaml").write_text("{data: {sample: vehicles, folder: drawn}, model: {backbone: timm/test_resnet}}")
    result = cli("plan", "job.yaml", "-o", "model.weights=none", cwd=job)
    assert result.rc == 0
    assert "once the images are there" in result.out
    assert not (job / "drawn").exists()
    (job / "hollow" / "a").mkdir(parents=True)
    (job / "hollow" / "b").mkdir()
    hollow = ("-o", "data.folder=hollow", "-o", "data.sample=null", "-o", "model.weights=none")
    assert "once the images are there" in cli("plan", "job.yaml", *hollow, cwd=job).out


def test_train_and_val_folders_evaluate_on_val_and_say_so(tmp_path: Path, cli: Any) -> None:
    makers.split_folders(tmp_path / "images", {"train": {"a": 6, "b": 6}, "val": {"a": 3, "b": 3}})
    recipe = "{data: {folder: images}, model: {backbone: timm/test_vit, weights: none}, train: {epochs: 1}}"
    (tmp_path / "job.yaml").write_text(recipe)
    result = cli("run", "job.yaml", cwd=tmp_path)
    assert result.rc == 0, result.err
    folder = tmp_path / "runs" / "job" / "001"
    assert result.out.strip() == str(folder)
    assert json.loads((folder / "report" / "metrics.json").read_text())["split"] == "val"
    assert "also" in (folder / "report" / "report.html").read_text()
    assert any("no test split" in line for line in json.loads((folder / "run.json").read_text())["warnings"])


def test_the_page_is_one_file_without_links(done: Path) -> None:
    page = (done / "report" / "report.html").read_text()
    assert not re.search(r"(?:src|href)\s*=\s*(?![\"']?(?:data:|#))", page)
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_before_a_run(job: Path, cli: Any) -> None:
    check = cli("check", "job.yaml", cwd=job)
    assert check.rc == 0
    assert "24 images of 3 classes" in check.out
    assert cli("init", "images", cwd=job).rc == 0
    assert cli("check", "images.yaml", cwd=job).rc == 0
    assert cli("init", "images", cwd=job).rc == 2
    layers = json.loads(cli("layers", "timm/test_resnet", "--json", cwd=job).out)
    assert next(iter(layers["groups"])) == "stem"
    dry = cli("run", "job.yaml", "--dry-run", cwd=job)
    assert dry.rc == 0
    assert "layer4" in dry.out
    assert not (job / "runs").exists()

"""`finetune runs` and `finetune run --seeds`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from finetune.deliver.runs import COLUMNS, list_runs
from finetune.errors import UsageError
from finetune.evaluate.compare import macro_f1, pooled
from finetune.files import read_json
from tests.conftest import Command
from tests.makers import class_folders

RECIPE = """
name: insects
data: {folder: photos, augment: none, split: {val: 0.25, test: 0.25}}
model: {backbone: small/logistic}
train: {epochs: 1}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("seeds")
    class_folders(root / "photos", {"ant": 16, "bee": 16})
    (root / "insects.yaml").write_text(RECIPE)
    return root


def test_seeds_are_run_told_listed_and_gone_on_with(home: Path, cli: Command) -> None:
    done = cli("run", "insects.yaml", "--seeds", "2", "--out", "both", "--json", cwd=home)
    assert done.rc == 0, done.err
    found = json.loads(done.out)
    assert found["n"] == 8
    assert [Path(run).name for run in found["runs"]] == ["seed-0", "seed-1"]
    accuracies = [read_json(Path(run) / "report" / "metrics.json")["accuracy"] for run in found["runs"]]
    assert found["accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    assert found["accuracy"]["sd"] == pytest.approx(np.std(accuracies, ddof=1))
    recipes = [read_json(Path(run) / "run.json")["recipe"] for run in found["runs"]]
    assert [recipe["seed"] for recipe in recipes] == [0, 1]

    again = cli("run", "insects.yaml", "--seeds", "2", "--out", "both", cwd=home)
    assert again.rc == 0, again.err
    assert again.err.count("finished already") == 2
    assert "95 % interval" in again.out

    listed = cli("runs", "both", "--csv", "--sort", "accuracy", cwd=home)
    rows = list(csv.DictReader(io.StringIO(listed.out)))
    assert tuple(rows[0]) == COLUMNS
    assert sorted((float(row["accuracy"]) for row in rows), reverse=True) == [float(row["accuracy"]) for row in rows]
    assert "finished" in cli("runs", "both", cwd=home).out


def test_what_cannot_be_listed_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        list_runs(tmp_path / "none")
    with pytest.raises(UsageError, match="no run in here"):
        list_runs(tmp_path)
    with pytest.raises(UsageError, match="no such column"):
        list_runs(tmp_path, "size")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    assert list_runs(tmp_path)[0]["status"] == "unreadable"


def test_the_interval_over_seeds_counts_seeds_and_images() -> None:
    """Coverage by simulation: a recipe whose networks differ in skill, tested on ever new images."""
    inside, tests = np.zeros(2), 200
    random = np.random.default_rng(0)
    everything = random.normal(size=200_000)
    truth = float(
        np.mean(
            [(random.normal(1.0, 0.3) + random.normal(0, 0.5, 20_000) > everything[:20_000]).mean() for _ in range(200)]
        )
    )
    for _ in range(tests):
        labels, hard = np.tile([0, 1], 60), random.normal(size=120)
        right = [random.normal(1.0, 0.3) + random.normal(0, 0.5, 120) > hard for _ in range(4)]
        found = pooled(labels, np.where(right, labels, 1 - labels), 2)
        for place, key in enumerate(("accuracy", "macro_f1")):
            low, high = found[key]["ci95"]
            inside[place] += low <= truth <= high
    assert (inside / tests >= 0.9).all()
    same = pooled(labels, np.stack([labels, labels]), 2)
    assert same["accuracy"]["mean"] == 1.0
    assert same["accuracy"]["ci95"][0] < 0.99
    assert macro_f1(labels, labels, 2) == 1.0

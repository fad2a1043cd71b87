"""The norms of the gradient in `history.csv`: right, empty where frozen, and the same after a stop."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import finetune as ft
from finetune.recipe.section import train_config
from finetune.runs.checkpoints import Checkpoints
from finetune.runs.history import HISTORY
from finetune.runs.reporter import Reporter
from finetune.story.run import run
from finetune.train.gradients import Gradients, gradient_columns
from finetune.train.state import MEASURED_EVERY
from finetune.train.trainer import Trainer
from tests import makers


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Enough images for more steps in an epoch than lie between two that are measured."""
    return makers.class_folders(tmp_path / "images", {"ant": 16, "bee": 16, "cat": 16})


def trainer(folder: Path, checkpoints: Path | None = None, **train: Any) -> Trainer:
    data = ft.ImageFolder(folder).split(val=0.2, test=0.2, seed=0)
    given = {"unfreeze": {"head": 0, "fc2": 1}, "weights_missing": "allow", "device": "cpu"}
    classifier = ft.Classifier("small/mlp", data.classes, **given)
    keys = {"epochs": 2, "optimizer": "adamw", "batch_size": 2, "checkpoint": {"every_steps": 1}, **train}
    saved = None if checkpoints is None else Checkpoints(checkpoints, 99)
    return classifier.trainer(data, train_config(**keys), augment="none", checkpoints=saved)


def norms(records: list[dict[str, Any]]) -> list[dict[str, float | None]]:
    return [{name: value for name, value in row.items() if name.startswith("grad:")} for row in records]


def test_the_norm_of_a_group_is_that_of_all_its_gradients() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    groups = {"fc1": ["0.weight", "0.bias"], "head": ["2.weight", "2.bias"]}
    gradients = Gradients(net, groups, {"0.weight", "2.weight", "2.bias"})
    sums: dict[str, list[float]] = {}
    expected = {"fc1": 0.0, "head": 0.0}
    for _ in range(2):
        net.zero_grad()
        net(torch.randn(6, 5)).square().sum().backward()
        gradients.measure(sums)
        weight, head, bias = (p.grad for p in (net[0].weight, net[2].weight, net[2].bias))
        assert weight is not None
        assert head is not None
        assert bias is not None
        expected["fc1"] += float(weight.norm()) / 2  # the bias is frozen
        expected["head"] += float(torch.cat([head.flatten(), bias]).norm()) / 2
    found = gradient_columns(groups, sums)
    assert found == {f"grad:{group}": pytest.approx(norm, rel=1e-6) for group, norm in expected.items()}


def test_an_overflow_is_left_out_and_a_group_without_gradient_has_no_norm() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    gradients = Gradients(net, {"a": ["0.weight"], "b": ["1.weight"]}, {"0.weight", "1.weight"})
    sums: dict[str, list[float]] = {}
    gradients.measure(sums)
    assert sums == {}
    net[0].weight.grad, net[1].weight.grad = torch.full((2, 2), torch.inf), torch.full((2, 2), 2.0)
    gradients.measure(sums)
    assert gradient_columns(["a", "b", "c"], sums) == {"grad:a": None, "grad:b": 4.0, "grad:c": None}


def test_the_columns_follow_those_of_old_and_are_empty_while_frozen(tiny: Path, tmp_path: Path) -> None:
    given = {
        "data": {"folder": str(tiny), "split": {"val": 0.25, "test": 0.25}},
        "model": {"backbone": "small/mlp", "unfreeze": {"head": 0, "fc2": 1}, "weights_missing": "allow"},
        "train": {"epochs": 2, "optimizer": "adamw"},
    }
    run(given, out=tmp_path / "o", reporter=Reporter(say=lambda text: None))
    with open(tmp_path / "o" / "history.csv", encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert list(first) == [*HISTORY, "grad:fc1", "grad:fc2", "grad:head"]
    assert [first["grad:fc1"], first["grad:fc2"], second["grad:fc1"]] == ["", "", ""]
    assert min(float(value) for value in (first["grad:head"], second["grad:fc2"], second["grad:head"])) > 0


def test_a_stop_leaves_the_norms_as_they_would_have_been(many: Path, tmp_path: Path) -> None:
    whole = norms(list(trainer(many, tmp_path / "o")))
    places = []
    for file in sorted((tmp_path / "o").glob("epoch-*.pth"))[2::5]:
        checkpoint = torch.load(file)
        places.append(checkpoint["position"]["step_in_epoch"])
        again = trainer(many)
        again.restore(checkpoint)
        for _ in again:
            pass
        assert norms(again.position.history) == whole
    assert any(step % MEASURED_EVERY for step in places)
    assert any(step > MEASURED_EVERY for step in places)


def test_what_is_measured_is_the_gradient_before_it_is_clipped(many: Path) -> None:
    one_step = {"epochs": 1, "batch_size": 64}  # so that both are measured on the same weights
    free, clipped = list(trainer(many, **one_step)), list(trainer(many, clip_norm=1e-3, **one_step))
    assert norms(free) == norms(clipped)
    assert free[0]["grad:head"] > 1e-2

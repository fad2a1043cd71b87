"""The head as logistic regression, against scikit-learn and through a whole run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from finetune.errors import DivergedError, UsageError
from finetune.runs.reporter import Reporter
from finetune.story.resume import open_run, resume
from finetune.story.run import run
from finetune.train.regression import Regression, solve_regression


def blobs(classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(120) % classes
    centres = np.random.default_rng(99).normal(size=(classes, 8))
    features = (centres[labels] + rng.normal(size=(120, 8))) * np.linspace(0.1, 50, 8) + 3
    return features.astype(np.float32), labels


def solve(x: np.ndarray, y: np.ndarray, val_x: np.ndarray, val_y: np.ndarray) -> Regression:
    return solve_regression(x, y, val_x, val_y, (x.shape[1],))


@pytest.mark.parametrize("classes", [2, 4])
def test_the_folded_head_gives_the_probabilities_of_scikit_learn(classes: int) -> None:
    x, y = blobs(classes)
    val_x, val_y = blobs(classes, seed=1)
    found = solve(x, y, val_x, val_y)
    spread = np.maximum(x.std(axis=0), np.sqrt(x.var(axis=0).mean()))

    def scaled(rows: np.ndarray) -> np.ndarray:
        return (rows - x.mean(axis=0)) / spread

    model = LogisticRegression(C=found.strength, max_iter=2000, tol=1e-6).fit(scaled(x), y)
    logits = val_x @ found.weight.numpy().T + found.bias.numpy()
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    assert np.allclose(chances, model.predict_proba(scaled(val_x)), atol=5e-3)


def few_of_each(seed: int, images: int, spare: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Six classes with `images` each but `spare` of the last; all classes vary alike, and along few directions."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(6), images)[: 6 * images - spare]
    fixed = np.random.default_rng(7)
    centres, directions = fixed.normal(size=(6, 40)) * 0.7, fixed.normal(size=(5, 40))
    varied = rng.normal(size=(len(labels), 5)) @ directions * 2 + rng.normal(size=(len(labels), 40))
    return (centres[labels] + varied).astype(np.float32), labels


@pytest.mark.parametrize("which", [0, 2])
def test_features_that_are_not_finite_are_refused(which: int) -> None:
    given = [*few_of_each(0, 10), *few_of_each(1, 4)]
    given[which][3, 5] = np.nan
    given[which][4, 6] = np.inf
    with pytest.raises(DivergedError, match="no finite features for 2 images"):
        solve(*given)


def recipe(folder: Path, **model: Any) -> dict[str, Any]:
    unfreeze = model.pop("unfreeze", {"head": 0})
    optimizer = model.pop("optimizer", "lbfgs")
    return {
        "data": {"folder": str(folder), "split": {"val": 0.25, "test": 0.25}},
        "model": {
            "backbone": "timm/test_resnet",
            "weights": "none",
            "weights_missing": "allow",
            "preprocess": {"size": 32},
            "unfreeze": unfreeze,
            **model,
        },
        "train": {"epochs": 5, "optimizer": optimizer, "precision": "fp32"},
    }


def test_a_run_solves_its_head_once(tiny: Path, tmp_path: Path) -> None:
    said: list[str] = []
    folder = run(recipe(tiny), out=tmp_path / "o", reporter=Reporter(say=said.append))
    assert any("solved exactly by logistic regression" in line for line in said)
    assert len((folder / "history.csv").read_text().splitlines()) == 2
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    sha256 = json.loads((folder / "run.json").read_text())["weights_sha256"]
    checkpoint = next((folder / "checkpoints").glob("epoch-*.pth"))
    resume(folder, checkpoint=checkpoint, reporter=Reporter(say=said.append))
    assert json.loads((folder / "run.json").read_text())["weights_sha256"] == sha256


def test_auto_solves_the_head_and_steps_through_the_rest(tiny: Path, tmp_path: Path) -> None:
    given = recipe(tiny, optimizer="auto", unfreeze={"head": 0, "last:1": 3})
    folder = run(given, out=tmp_path / "o", reporter=Reporter(say=lambda text: None))
    rows = [line.split(",")[:2] for line in (folder / "history.csv").read_text().splitlines()[1:]]
    assert rows == [["0", "0"], ["3", "1"], ["4", "1"]]
    sha256 = json.loads((folder / "run.json").read_text())["weights_sha256"]
    for checkpoint in sorted((folder / "checkpoints").glob("epoch-*.pth")):
        _, optimizer = open_run(folder)
        optimizer.load_state_dict(torch.load(checkpoint)["optimizer_state_dict"])
        resume(folder, checkpoint=checkpoint, reporter=Reporter(say=lambda text: None))
        assert json.loads((folder / "run.json").read_text())["weights_sha256"] == sha256


def test_auto_steps_through_what_it_cannot_solve(tiny: Path, tmp_path: Path) -> None:
    given = recipe(tiny, optimizer="auto", head={"hidden": [4]})
    folder = run(given, out=tmp_path / "o", reporter=Reporter(say=lambda text: None))
    assert len((folder / "history.csv").read_text().splitlines()) == 6


@pytest.mark.parametrize("model", [{"unfreeze": {"head": 0, "layer4": 2}}, {"head": {"hidden": [4]}}])
def test_what_is_not_convex_is_refused_before_it_is_trained(tiny: Path, tmp_path: Path, model: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"train\.optimizer"):
        run(recipe(tiny, **model), out=tmp_path / "o", reporter=Reporter(say=lambda text: None))
    assert not list((tmp_path / "o").glob("checkpoints/*.pth"))

"""The temperature: what it fits, what it must never do, and that it travels with the network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss

import finetune as ft
from finetune.errors import ArtefactError
from finetune.evaluate.calibrate import HIGHEST, LOWEST, fit_temperature
from finetune.evaluate.metrics import cross_entropy, predict, probabilities
from finetune.files import read_json, write_json
from tests.makers import class_folders


def drawn(n: int, classes: int, sharpness: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `sharpness` times those by which the labels were drawn, and the labels."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (n, classes))
    chances = probabilities(logits)
    labels = np.array([random.choice(classes, p=row) for row in chances])
    return sharpness * logits, labels


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("loss", ["cross_entropy", "hinge"])
def test_it_finds_the_factor_by_which_logits_are_too_sharp(sharpness: float, loss: str) -> None:
    logits, labels = drawn(4000, 5, sharpness)
    assert fit_temperature(logits, labels, loss) == pytest.approx(sharpness, rel=0.08)


@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
def test_softening_agrees_with_scikit_learns_loss_under_scipys_minimiser(loss: str) -> None:
    logits, labels = drawn(600, 4, 3.0)

    def by_them(temperature: float) -> float:
        return float(log_loss(labels, probabilities(logits / temperature, loss), labels=range(4)))

    best = minimize_scalar(by_them, bounds=(LOWEST, HIGHEST), method="bounded", options={"xatol": 1e-6}).x
    assert best > 1.5
    assert fit_temperature(logits, labels, loss) == pytest.approx(best, abs=2e-4)


ANY_LOGITS = arrays(np.float32, (12, 3), elements=st.floats(-80, 80, width=32))


@settings(deadline=None, max_examples=60)
@given(ANY_LOGITS, arrays(np.int64, 12, elements=st.integers(0, 2)), st.sampled_from(["cross_entropy", "hinge"]))
def test_it_never_raises_the_loss_and_changes_no_answer(logits: np.ndarray, labels: np.ndarray, loss: str) -> None:
    temperature = fit_temperature(logits, labels, loss)
    assert LOWEST <= temperature <= HIGHEST
    before, after = probabilities(logits, loss), probabilities(logits, loss, temperature)
    old, new = cross_entropy(labels, before), cross_entropy(labels, after)
    assert old is not None
    assert new is not None
    assert new <= old + 1e-6
    clear = np.sort(logits, axis=1)[:, -1] - np.sort(logits, axis=1)[:, -2] > 1e-3
    assert (predict(after) == predict(before))[clear].all()
    assert fit_temperature(logits, labels, loss) == temperature


def test_few_right_answers_are_no_proof_of_certainty() -> None:
    labels = np.arange(10) % 2
    logits = np.where(np.arange(2) == labels[:, None], 1.0, -1.0)
    sure = probabilities(logits, "cross_entropy", fit_temperature(logits, labels)).max(axis=1)
    assert (sure > probabilities(logits).max(axis=1)).all()
    assert (sure < 0.97).all(), "ten right answers support no more"
    certain = 40 * logits
    assert fit_temperature(certain, labels) == 1.0, "nothing speaks for less certainty, nothing for more"


def test_what_cannot_be_fitted_stays_as_it_is() -> None:
    assert fit_temperature(np.empty((0, 0), np.float32), np.empty(0, np.int64)) == 1.0
    assert fit_temperature(np.full((3, 2), np.nan), np.zeros(3, np.int64)) == 1.0
    assert fit_temperature(np.ones((3, 1)), np.zeros(3, np.int64)) == 1.0
    some = np.array([[np.nan, 1.0], [8.0, 0.0], [8.0, 0.0]])
    assert fit_temperature(some, np.array([0, 0, 1])) > 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose head learns noise, so that it is too sure of itself."""
    root = tmp_path_factory.mktemp("temperature")
    recipe = {
        "data": {"folder": str(class_folders(root / "photos", {"ant": 24, "bee": 24})), "augment": "none"},
        "model": {"backbone": "small/mlp"},
        "train": {"epochs": 4, "lr": 0.01, "select": "val_accuracy"},
    }
    return ft.run(recipe, out=root / "run")


def test_every_run_fits_one_and_every_reader_uses_it(run: Path) -> None:
    described = read_json(run / "model" / "model.json")
    temperature = described["temperature"]
    assert temperature != 1.0
    assert read_json(run / "run.json")["temperature"] == temperature
    classifier = ft.load(run)
    assert classifier.network.temperature == temperature
    rows = (run / "report" / "predictions.csv").read_text().splitlines()
    path, _, _, confidence, *_ = rows[1].split(",")
    folder = Path(read_json(run / "run.json")["recipe"]["data"]["folder"])
    assert classifier.predict(folder / path).confidence == pytest.approx(float(confidence), abs=1e-4)


def test_a_bundle_of_old_has_temperature_one_and_a_broken_one_is_refused(run: Path, tmp_path: Path) -> None:
    bundle = ft.load(run).save(tmp_path / "bundle")
    described = json.loads((bundle / "model.json").read_text())
    old = {key: value for key, value in described.items() if key != "temperature"}
    write_json(bundle / "model.json", old)
    assert ft.load(bundle).network.temperature == 1.0
    for wrong in (0, -1, "warm", True, None):
        write_json(bundle / "model.json", {**described, "temperature": wrong})
        with pytest.raises(ArtefactError, match="temperature"):
            ft.load(bundle)

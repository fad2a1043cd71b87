"""Tuned after a solved head: which of the two is kept, what a run leaves behind, stopped and gone on with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from finetune.errors import Stopped, UsageError
from finetune.model.cut import Cut
from finetune.model.plan import Phase
from finetune.recipe.flags import TUNED, tuning_overrides
from finetune.recipe.load import from_mapping
from finetune.report.solved_or_tuned import gate_sentence
from finetune.runs.reporter import Reporter
from finetune.story.result import Run
from finetune.story.resume import resume
from finetune.story.run import fit, run
from finetune.train import choice
from finetune.train.gate import FEWEST, decide, require_enough
from finetune.train.solvable import choose_optimizer
from finetune.train.state import Settings
from tests import makers

QUIET = Reporter(say=lambda text: None)
EPOCHS = 3


def recipe(folder: Path, test: float = 0.0, tune: bool = True, **train: Any) -> dict[str, Any]:
    model = {"features": "auto", "unfreeze": {"head": 0, "last:2": 1} if tune else {"head": 0}}
    gate = {"gate": "paired", "epochs": EPOCHS, "batch_size": 8, "batchnorm": "keep"} if tune else {}
    return makers.tiny_recipe(folder, test, model, {**gate, **train})


def answers(labels: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Logits that name the right class where `right` says so, else the next one."""
    named = np.where(right, labels, (labels + 1) % 2)
    return np.eye(2, dtype=np.float32)[named] * 3


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return makers.class_folders(tmp_path_factory.mktemp("images") / "photos", {"ant": 16, "bee": 16, "cat": 16})


@pytest.fixture(scope="module")
def solved(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose gate keeps the solved head: random layers tell nothing of random pictures."""
    return run(recipe(images), out=tmp_path_factory.mktemp("runs") / "solved", reporter=QUIET)


@pytest.fixture(scope="module")
def tuned(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that keeps what it tuned, whatever the test says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "decide", lambda *values: {**decide(*values), "kept": "tuned"})
        return run(recipe(images), out=tmp_path_factory.mktemp("runs") / "tuned", reporter=QUIET)


# --- the test itself -------------------------------------------------------------------------------------------------


def test_the_better_one_is_kept_and_in_doubt_the_solved_head() -> None:
    labels = np.arange(40) % 2
    some, most, all_ = np.arange(40) < 24, np.arange(40) < 28, np.ones(40, dtype=bool)
    assert decide(labels, answers(labels, some), answers(labels, all_))["kept"] == "tuned"
    assert decide(labels, answers(labels, some), answers(labels, most))["kept"] == "solved"  # four images: p 0.125
    assert decide(labels, answers(labels, all_), answers(labels, some))["kept"] == "solved"
    assert decide(labels, answers(labels, all_), answers(labels, all_))["kept"] == "solved"


def test_a_network_with_an_answer_that_is_no_number_is_not_kept() -> None:
    labels = np.arange(40) % 2
    broken = answers(labels, np.ones(40, dtype=bool))
    broken[3, 1] = np.nan
    assert decide(labels, answers(labels, np.arange(40) < 20), broken)["kept"] == "solved"


def test_the_figures_of_both_are_told_with_what_was_kept() -> None:
    labels = np.arange(40) % 2
    gate = decide(labels, answers(labels, np.arange(40) < 20), answers(labels, np.ones(40, dtype=bool)))
    assert (gate["only_solved"], gate["only_tuned"], gate["images"]) == (0, 20, 40)
    assert gate["difference"]["accuracy"] == pytest.approx(0.5)
    said = gate_sentence(gate)
    assert "the tuned network was kept" in said
    assert "40 validation images" in said
    assert "accuracy 1.000" in said
    assert "accuracy 0.500" in said
    assert gate_sentence(None) == ""


def test_a_handful_of_validation_images_is_refused() -> None:
    require_enough(FEWEST)
    with pytest.raises(UsageError, match="9 validation images cannot tell"):
        require_enough(FEWEST - 1)


# --- runs ------------------------------------------------------------------------------------------------------------


def test_where_the_solved_head_wins_the_run_leaves_what_it_would_without_tuning(
    images: Path, solved: Run, tmp_path: Path
) -> None:
    plain = run(recipe(images, tune=False), out=tmp_path / "plain", reporter=QUIET)
    assert solved.record.gate is not None
    assert solved.record.gate["kept"] == "solved"
    assert solved.record.weights_sha256 == plain.record.weights_sha256
    assert solved.record.temperature == plain.record.temperature
    assert solved.metrics == plain.metrics
    assert solved.metrics["split"] == "out_of_fold"
    assert len(solved.history) == EPOCHS
    assert solved.record.best is not None
    assert solved.record.best["epoch"] == 0
    page = (solved / "report" / "report.html").read_text()
    assert "Tuning did not clearly pay" in page


def test_where_tuning_wins_the_last_epoch_is_kept(solved: Run, tuned: Run) -> None:
    record, last = tuned.record, tuned.history.iloc[-1]
    assert record.best == {"epoch": EPOCHS - 1, "value": pytest.approx(last["val_macro_f1"])}
    assert record.weights_sha256 != solved.record.weights_sha256
    assert tuned.metrics["split"] == "val"
    assert tuned.metrics["macro_f1"] == pytest.approx(last["val_macro_f1"], abs=1e-6)
    assert "Tuning paid" in (tuned / "report" / "report.html").read_text()
    proof = record.freeze_proof or {}
    assert proof
    assert all(pair["sha256_before"] == pair["sha256_after"] for pair in proof.values())


def test_the_recipe_of_the_run_runs_again_to_the_same_bits(
    solved: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.story.run.publish_report", lambda *_: [])
    again = run(solved / "recipe.yaml", out=tmp_path / "again", reporter=QUIET)
    assert again.record.weights_sha256 == solved.record.weights_sha256
    assert again.record.gate == solved.record.gate


class StopAfter:
    """Asks to stop once so many steps are done."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def tick(self, *_: Any) -> None:
        self.left -= 1

    def stop(self) -> int | None:
        return 2 if self.left <= 0 else None


@pytest.mark.parametrize(("kept", "steps"), [("solved", 3), ("solved", 10), ("tuned", 7), ("tuned", 10)])
def test_stopped_and_gone_on_with_it_comes_to_the_same_bits(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solved: Run, tuned: Run, kept: str, steps: int
) -> None:
    monkeypatch.setattr("finetune.story.run.publish_report", lambda *_: [])
    monkeypatch.setattr(choice, "decide", lambda *values: {**decide(*values), "kept": kept})
    whole = {"solved": solved, "tuned": tuned}[kept]
    halt = StopAfter(steps)
    quiet = Reporter(say=lambda text: None, step=halt.tick, stop=halt.stop)
    with pytest.raises(Stopped):
        run(recipe(images), out=tmp_path / "halted", reporter=quiet)
    resumed = resume(tmp_path / "halted", reporter=QUIET)
    assert resumed.record.weights_sha256 == whole.record.weights_sha256
    assert resumed.record.gate == whole.record.gate


def test_after_the_choice_nothing_is_trained_on(images: Path, solved: Run, tmp_path: Path) -> None:
    file = solved / "recipe.yaml"
    before = file.read_text()
    try:
        file.write_text(before.replace(f"epochs: {EPOCHS}", f"epochs: {EPOCHS + 2}"))
        with pytest.raises(UsageError, match="has chosen between solved and tuned already"):
            resume(solved, accept_changes=True, reporter=QUIET)
    finally:
        file.write_text(before)


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda r: r["train"].update(optimizer="adamw"), "nothing is solved with train.optimizer: adamw"),
        (lambda r: r["model"].update(head={"hidden": [8]}, features="last"), "cannot be solved first"),
        (lambda r: r["model"].update(unfreeze={"head": 0}), "nothing is trained after the solved head"),
        (lambda r: r["model"].update(unfreeze={"all": 0}), "cannot be solved first"),
        (lambda r: r["train"].update(early_stop=2), "early_stop: not with gate: paired"),
        (lambda r: r["train"].update(ema=0.9), "ema: not with gate: paired"),
        (lambda r: r["data"].update(split={"val": 0.1, "test": 0.0}), "6 validation images cannot tell"),
    ],
)
def test_a_gate_without_two_candidates_or_images_is_refused(
    images: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], problem: str
) -> None:
    values = recipe(images)
    change(values)
    with pytest.raises(UsageError, match=problem):
        run(values, out=tmp_path / "o", reporter=QUIET)


def test_a_network_whose_features_cannot_be_seen_has_no_solved_head_to_go_on_from() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 2))
    whole = Cut(lambda images: (images,), module, module, "at the images: it cannot be traced", no_prefix=True)
    head = frozenset({"2.weight", "2.bias"})
    with pytest.raises(UsageError, match="cannot be seen, so no head is solved"):
        choose_optimizer(module, Phase(0, 0, 1, head), Settings(optimizer="auto", gate=True), whole)
    assert choose_optimizer(module, Phase(0, 0, 1, head), Settings(optimizer="auto"), whole) == "adamw"


# --- the flag --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "epochs"), [(0, 11), (600, 11), (4000, 6), (1_000_000, 3)])
def test_the_more_images_the_fewer_epochs(count: int, epochs: int) -> None:
    bare = from_mapping({"data": {"folder": "photos"}, "model": {"backbone": "auto"}})
    assert f"train.epochs={epochs}" in tuning_overrides(bare, count)


def test_the_flag_is_short_for_keys_of_the_recipe(images: Path) -> None:
    values = {"data": {"folder": str(images)}, "model": {"backbone": "auto"}}
    given = [*tuning_overrides(from_mapping(values), 48), "train.lr=0.5"]
    tuned = from_mapping(values, "recipe", given)
    assert tuned.model.unfreeze == {"head": 0, TUNED: 1}
    assert (tuned.train.gate, tuned.train.batchnorm, tuned.train.optimizer) == ("paired", "keep", "auto")
    assert tuned.train.lr == 0.5  # what is said besides wins


def test_what_learns_is_said_once() -> None:
    bare = from_mapping({"data": {"folder": "x"}, "model": {"backbone": "auto", "unfreeze": {"all": 0}}})
    with pytest.raises(UsageError, match="there is one already"):
        tuning_overrides(bare, 100)


def test_fit_takes_it_as_an_argument(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("finetune.story.run.run", lambda values, **more: given.update(more))
    fit(images, tune=True, overrides=["train.lr=0.5"])
    assert "train.gate=paired" in given["overrides"]
    assert given["overrides"][-1] == "train.lr=0.5"

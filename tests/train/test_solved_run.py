"""A run whose head is solved: by all images, evaluated out of fold, interrupted, repeated, with stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
from PIL import Image
from safetensors.torch import load_file

from finetune.deliver.evaluate import evaluate
from finetune.errors import Stopped
from finetune.evaluate.metrics import compute_metrics
from finetune.runs.reporter import Reporter
from finetune.story.result import Run
from finetune.story.resume import resume
from finetune.story.run import run
from finetune.train import head_solver
from finetune.train.folds import assign_folds
from tests import makers

QUIET = Reporter(say=lambda text: None)


def recipe(folder: Path, test: float = 0.0, **model: Any) -> dict[str, Any]:
    return makers.tiny_recipe(folder, test, {"unfreeze": {"head": 0}, **model}, {})


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return makers.class_folders(tmp_path_factory.mktemp("images") / "photos", {"ant": 8, "bee": 8, "cat": 8})


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(recipe(images, features="stages"), out=tmp_path_factory.mktemp("runs") / "whole", reporter=QUIET)


def test_without_test_images_the_figures_are_those_out_of_fold(whole: Run) -> None:
    metrics, table = whole.metrics, whole.predictions
    assert metrics["split"] == "out_of_fold"
    assert metrics["n"] == len(table) == 24
    data = pd.read_csv(whole / "data.csv")
    assert list(table["path"]) == [*data[data["split"] == "train"]["path"], *data[data["split"] == "val"]["path"]]
    classes = whole.record.classes
    labels = np.array([classes.index(name) for name in table["class"]])
    again = compute_metrics(labels, table[[f"p:{name}" for name in classes]].to_numpy(), classes)
    assert again.macro_f1 == pytest.approx(metrics["macro_f1"], abs=1e-9)
    assert float(whole.history["val_macro_f1"].iloc[0]) == pytest.approx(metrics["macro_f1"], abs=1e-6)


def test_the_learning_curve_ends_at_the_figures_out_of_fold_and_the_page_shows_it(whole: Run) -> None:
    curve = whole.metrics["learning_curve"]
    last = curve["points"][-1]
    assert [point["images"] for point in curve["points"]] == sorted({point["images"] for point in curve["points"]})
    assert len(curve["points"]) == 4
    assert last["images"] == 22  # of 24, as in every fold of ten
    assert last["accuracy"] == pytest.approx(whole.metrics["accuracy"], abs=1e-12)
    assert last["macro_f1"] == pytest.approx(whole.metrics["macro_f1"], abs=1e-12)
    assert last["macro_f1_ci95"] == pytest.approx(whole.metrics["macro_f1_ci95"], abs=1e-12)
    assert "Would more images help?" in (whole / "report" / "report.html").read_text()


def test_evaluate_repeats_them_without_looking_at_an_image(whole: Run) -> None:
    evaluation, split = evaluate(whole, reporter=QUIET)
    assert split == "out_of_fold"
    assert evaluation.metrics.macro_f1 == pytest.approx(whole.metrics["macro_f1"], abs=1e-9)
    assert evaluation.metrics.loss == pytest.approx(whole.metrics["loss"], abs=1e-9)


def test_a_folder_with_the_runs_own_images_is_known_validation_included(whole: Run, images: Path) -> None:
    evaluation, _ = evaluate(whole, images, reporter=QUIET)
    (leak,) = evaluation.cautions
    assert leak.startswith("Leak: 24 of these 24 images are also among the training or validation images")


def test_the_head_reads_stages_and_the_record_names_them(whole: Run) -> None:
    features = whole.record.features
    assert features is not None
    assert list(features)[-1] == "last"
    assert len(features) == 4
    weight = load_file(whole / "model" / "model.safetensors")["fc.weight"]
    assert weight.shape == (3, sum(features.values()))
    proof = whole.record.freeze_proof
    assert proof
    assert all(pair["sha256_before"] == pair["sha256_after"] for pair in proof.values())


@pytest.mark.parametrize("after", [1, 3, 6])
def test_stopped_in_cross_validation_and_resumed_it_comes_to_the_same_bits(
    images: Path, whole: Run, tmp_path: Path, after: int
) -> None:
    asked = 0

    def stop() -> int | None:
        nonlocal asked
        asked += said_solving
        return 2 if said_solving and asked > after else None

    said_solving = False

    def say(text: str) -> None:
        nonlocal said_solving
        said_solving = said_solving or "computed once" in text

    with pytest.raises(Stopped):
        run(recipe(images, features="stages"), out=tmp_path / "o", reporter=Reporter(say=say, stop=stop))
    resumed = resume(tmp_path / "o", reporter=QUIET)
    assert resumed.record.weights_sha256 == whole.record.weights_sha256
    assert (resumed / "report" / "predictions.csv").read_bytes() == (whole / "report" / "predictions.csv").read_bytes()


def test_resumed_from_the_solved_head_the_answers_out_of_fold_are_still_known(whole: Run) -> None:
    before = (whole / "report" / "predictions.csv").read_bytes()
    checkpoint = next((whole / "checkpoints").glob("epoch-*.pth"))
    resume(whole, checkpoint=checkpoint, reporter=QUIET)
    assert (whole / "report" / "predictions.csv").read_bytes() == before


def test_with_test_images_those_are_what_it_is_evaluated_by_and_last_loads_into_timm(
    images: Path, tmp_path: Path
) -> None:
    done = run(recipe(images, test=0.25), out=tmp_path / "o", reporter=QUIET)
    assert done.metrics["split"] == "test"
    plain = timm.create_model("test_resnet", num_classes=3)
    plain.load_state_dict(load_file(done / "model" / "model.safetensors"), strict=True)


def test_a_phase_that_follows_keeps_validation_out_of_the_head(images: Path, tmp_path: Path) -> None:
    given = recipe(images, unfreeze={"head": 0, "last:1": 1})
    given["train"]["epochs"] = 2
    done = run(given, out=tmp_path / "o", reporter=QUIET)
    assert done.metrics["split"] == "val"
    assert len(done.history) == 2


def test_one_image_in_a_class_is_enough_and_is_said(tmp_path: Path) -> None:
    split = tmp_path / "photos"
    makers.class_folders(split / "train", {"ant": 6, "bee": 6, "cat": 1})
    makers.class_folders(split / "val", {"ant": 2, "bee": 2})
    (split / "val" / "cat").mkdir(exist_ok=True)
    said: list[str] = []
    done = run(recipe(split), out=tmp_path / "o", reporter=Reporter(say=said.append))
    assert json.loads((done / "run.json").read_text())["status"] == "finished"
    assert any("only one image of cat" in line for line in said)


def test_a_group_is_in_one_fold_as_it_is_in_one_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight animals, three pictures each: no head answers for an animal that it has learned from."""
    folder = makers.class_folders(tmp_path / "photos", {"ant": 12, "bee": 12})
    for kind in ("ant", "bee"):
        for place, path in enumerate(sorted((folder / kind).iterdir())):
            path.rename(path.with_name(f"{kind}{place // 3}-shot{place:02}{path.suffix}"))
    dealt: list[tuple[np.ndarray, np.ndarray]] = []

    def note(labels: np.ndarray, units: np.ndarray, folds: int, seed: int = 0) -> np.ndarray:
        dealt.append((units, assign_folds(labels, units, folds, seed)))
        return dealt[-1][1]

    monkeypatch.setattr(head_solver, "assign_folds", note)
    wanted = recipe(folder)
    wanted["data"]["group"] = "([a-z]+[0-9]+)-shot"
    done = run(wanted, out=tmp_path / "o", reporter=QUIET)
    (units, folds), (contents, _) = dealt  # the second to say what a random split would have given
    assert len(set(contents)) == 24
    animal = done.predictions["path"].str.extract(r"([a-z]+\d+)-shot")[0].to_numpy()
    assert len(animal) == 24
    assert len(set(folds)) > 2
    for name in set(animal):
        assert len(set(units[animal == name])) == len(set(folds[animal == name])) == 1
    assert len(set(units)) == len(set(animal)) == 8


def test_the_score_of_a_random_split_stands_beside_that_of_groups(tmp_path: Path) -> None:
    """Frames of made-up films: the film tells which class it is of, the class itself nothing."""
    folder = tmp_path / "films"
    for film in range(16):
        coarse = np.random.default_rng(film).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        for frame in range(5):
            moved = np.roll(np.asarray(Image.fromarray(coarse).resize((32, 32), Image.Resampling.NEAREST)), frame, 1)
            png = makers.encoded(Image.fromarray(moved), "PNG")
            makers.put(folder / ("ant", "bee")[film % 2] / f"film{film:02}-frame{frame}.png", png)
    given = recipe(folder)
    given["data"]["group"] = "(film[0-9]+)"
    done = run(given, out=tmp_path / "o", reporter=QUIET)
    beside = done.metrics["grouping"]
    assert (beside["n"], beside["groups"]) == (80, 16)
    assert beside["accuracy"] == done.metrics["accuracy"]
    assert beside["accuracy_random_split"] > beside["accuracy"] + 0.2
    assert beside["matters"]
    page = (done / "report" / "report.html").read_text()
    assert "What a random split would have promised" in page
    checkpoint = next((done / "checkpoints").glob("epoch-*.pth"))
    assert resume(done, checkpoint=checkpoint, reporter=QUIET).metrics["grouping"] == beside


def test_without_groups_there_is_no_random_split_to_tell_of(whole: Run) -> None:
    assert "grouping" not in whole.metrics
    assert "random split" not in (whole / "report" / "report.html").read_text()

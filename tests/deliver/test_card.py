"""The model card of a bundle, and what it says of licences down the chain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import finetune as ft
from finetune.deliver.card import plain
from finetune.model.bundle import load_bundle
from finetune.model.lineage import UNKNOWN, Base, licence_of
from tests import makers

HOSTILE = "a|b [x](javascript:1) <img src=x>"


def recipe(images: Path, backbone: str, **model: object) -> dict[str, object]:
    return {
        "name": "kinds",
        "data": {"folder": str(images), "split": {"val": 0.25, "test": 0.25}, "augment": "none"},
        "model": {"backbone": backbone, "preprocess": {"size": 28}, **model},
        "train": {"epochs": 1, "precision": "fp32"},
    }


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run from scratch, one of its classes with a hostile name."""
    folder = tmp_path_factory.mktemp("card")
    images = makers.class_folders(folder / "images", {HOSTILE: 12, "bee": 12})
    return ft.run(recipe(images, "small/mlp"), out=folder / "scratch").path


def test_a_run_leaves_a_card_that_the_hub_understands(scratch: Path) -> None:
    card = ModelCard.load(scratch / "model" / "README.md")
    metrics = json.loads((scratch / "report" / "metrics.json").read_text())
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.license is None  # from scratch: whose it is, is for its author to say
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {"accuracy": metrics["accuracy"], "f1": metrics["macro_f1"]}
    assert "Trained from scratch" in card.text
    assert "which neither training nor selection has seen" in card.text
    low, high = metrics["accuracy_ci95"]
    assert f"(95% interval {low:.3f} to {high:.3f})" in card.text


def test_no_name_marks_up_or_ends_a_cell(scratch: Path) -> None:
    text = (scratch / "model" / "README.md").read_text()
    assert "<img" not in text.partition("## How it was made")[0]
    rows = [
        line for line in text.splitlines() if line.startswith("| bee ") or ("javascript" in line and line[0] == "|")
    ]
    assert len(rows) >= 4
    counts = {line.count("|") for line in rows}
    assert counts == {5, 6}  # class, train, val, test; class, images, F1, precision, recall
    assert plain("a_b") == "a&#95;b"


def test_nothing_tells_where_the_images_lay(scratch: Path) -> None:
    assert str(scratch.parent) not in (scratch / "model" / "README.md").read_text()


def test_licence_and_hash_go_down_the_chain(scratch: Path, tmp_path: Path) -> None:
    weights = scratch / "model" / "model.safetensors"
    (tmp_path / "base.yaml").write_text(
        f"architecture: small/mlp\nweights: {weights}\nlicence: CC-BY-NC-4.0\nsource: a friend\n"
    )
    images = scratch.parent / "images"
    first = ft.run(recipe(images, str(tmp_path / "base.yaml")), out=tmp_path / "first").path
    second = ft.run(recipe(images, str(first)), out=tmp_path / "second").path
    lineage = json.loads((second / "model" / "model.json").read_text())["lineage"]
    assert lineage["licence"] == "CC-BY-NC-4.0"
    assert lineage["base"]["base"]["source"] == "a friend"
    assert len(lineage["base"]["base"]["sha256"]) == 64
    card = ModelCard.load(second / "model" / "README.md")
    assert card.data.license == "cc-by-nc-4.0"
    assert "a friend; licence: CC-BY-NC-4.0" in card.text
    assert load_bundle(second).base is not None


@pytest.mark.parametrize(
    ("licences", "claim"),
    [(("MIT",), "MIT"), (("MIT", UNKNOWN), UNKNOWN), (("Apache-2.0", "apache-2.0"), "apache-2.0"), ((), None)],
)
def test_no_licence_is_looser_than_the_chain(licences: tuple[str, ...], claim: str | None) -> None:
    base = None
    for licence in reversed(licences):
        base = Base("x", "y", None, licence, base)
    assert licence_of(base) == claim


def test_a_file_of_the_user_has_no_licence_that_is_known(scratch: Path, tmp_path: Path) -> None:
    weights = str(scratch / "model" / "model.safetensors")
    made = ft.Classifier("small/mlp", ["ant", "bee"], weights=weights)
    made.save(tmp_path / "bundle")
    card = ModelCard.load(tmp_path / "bundle" / "README.md")
    assert card.data.license == "unknown"
    assert "The licence of the base is unknown" in card.text
    assert ft.load(tmp_path / "bundle").classes == ["ant", "bee"]

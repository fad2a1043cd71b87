"""The weights that are shipped: whole, small, and usable under the name that recipes give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.model.backbones import build
from finetune.model.card import read_card
from finetune.model.weights import read_weights

ROOT = Path(__file__).parents[2]
ALL = sorted((ROOT / "models").glob("*.yaml"))
WITH_WEIGHTS = [path for path in ALL if read_card(path).has_weights]
# The others are tried in test_packaged.py.
CARDS = [
    path for path in WITH_WEIGHTS if not (read_card(path).weights or "").startswith("package:")
]  # see test_packaged
LARGEST = 8_000_000
"""Bytes: what is cloned with the code must stay small beside it."""


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_the_file_is_the_one_the_card_describes(path: Path) -> None:
    card = read_card(path)
    assert card.sha256
    card.check_sha256()
    assert card.weights_path is not None
    assert card.weights_path.stat().st_size <= LARGEST
    assert all((card.licence, card.source, card.recipe, card.data, card.metrics, card.limits))


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_all_of_its_weights_are_used_with_its_own_classes_and_with_others(path: Path) -> None:
    card = read_card(path)
    network = build(str(path), ["a", "b"])
    example = network.preprocess.example()
    with torch.no_grad():
        assert network.module(example).shape == (2, 2)
    assert not [note for note in network.notes if "replaced by a new head" not in note]
    if card.classes is not None:
        whole = build(str(path), card.classes)
        missing, unexpected = whole.module.load_state_dict(read_weights(card.weights_path), strict=False)
        assert not unexpected
        assert all(name.endswith("num_batches_tracked") for name in missing)


def test_a_card_without_weights_describes_a_network_that_learns_from_scratch() -> None:
    described = [path for path in ALL if path not in WITH_WEIGHTS]
    assert described
    for path in described:
        assert not build(str(path), ["a", "b"]).pretrained


def test_the_weights_have_cards_and_the_cards_recipes() -> None:
    assert {path.stem for path in CARDS} == {path.stem for path in (ROOT / "models").glob("*.safetensors")}
    for path in CARDS:
        recipe = read_card(path).recipe.split(",")[0].split()[0]
        assert (ROOT / recipe).is_file(), f"{path.name}: {recipe} is not there"


def test_each_is_listed_with_what_it_is(cli: Any) -> None:
    listed = {name: about for name, _, about in (line.partition("  ") for line in cli("models").out.splitlines())}
    assert {f"models/{path.stem}" for path in ALL} <= set(listed)
    assert all(len(listed[f"models/{path.stem}"].split()) > 4 for path in ALL)
    assert cli("models", "small-resnet").out.startswith("models/small-resnet  ")

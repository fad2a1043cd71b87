"""Layers that have learned nothing are not frozen by mistake; who wants random features says so."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from safetensors.torch import save_file

import finetune as ft
from finetune.model.backbones import build
from finetune.recipe.flags import with_unfreeze
from finetune.recipe.load import from_mapping, resolve

SMALL = {"size": 32}


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    """Weights of `timm/test_resnet` without its second stage."""
    state = build("timm/test_resnet", ["a", "b"], weights="none").module.state_dict()
    kept = {name: value.contiguous() for name, value in state.items() if not name.startswith("layer2.")}
    assert 2 * len(kept) > len(state)
    save_file(kept, tmp_path / "partial.safetensors")
    return tmp_path / "partial.safetensors"


def classifier(weights: object, unfreeze: object, **given: object) -> ft.Classifier:
    return ft.Classifier("timm/test_resnet", ["a", "b"], weights=weights, unfreeze=unfreeze, preprocess=SMALL, **given)


@pytest.mark.parametrize("unfreeze", [{"head": 0}, ["head", "layer4"], {"backbone": 1, "head": 0}])
def test_without_weights_nothing_but_all_learns(unfreeze: object) -> None:
    complete = isinstance(unfreeze, dict) and "backbone" in unfreeze
    made = classifier("none", unfreeze)
    if complete:  # everything learns in the end
        made.plan()
        return
    with pytest.raises(ft.FinetuneError, match="no weights") as refused:
        made.plan()
    assert refused.value.exit_code == 2
    assert "weights_missing" in refused.value.remedy
    classifier("none", unfreeze, weights_missing="allow").plan()


def test_layers_that_the_file_lacks_must_learn(partial: Path) -> None:
    with pytest.raises(ft.FinetuneError, match="layer2") as refused:
        classifier(partial, "head").plan()
    assert refused.value.exit_code == 4
    classifier(partial, ["head", "layer2"]).plan()
    classifier(partial, "head", weights_missing="allow").plan()


def test_the_remedy_that_is_given_is_accepted(partial: Path) -> None:
    with pytest.raises(ft.FinetuneError) as refused:
        classifier(partial, "head").plan()
    told = re.search(r"\(unfreeze=(.*?)\)", refused.value.remedy)
    assert told is not None
    classifier(partial, ast.literal_eval(told[1])).plan()


@pytest.mark.parametrize(
    ("has_weights", "flags", "learns"),
    [
        (False, [], {"all": 0}),
        (False, ["layer4@1"], {"all": 0, "layer4": 1}),
        (True, [], {"head": 0}),
        (True, ["layer4@1"], {"head": 0, "layer4": 1}),
    ],
)
def test_what_learns_by_default_hangs_on_whether_the_card_has_weights(
    tmp_path: Path, has_weights: bool, flags: list[str], learns: dict[str, int]
) -> None:
    state = build("timm/test_resnet", ["a", "b"], weights="none").module.state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "whole.safetensors")
    weights = "whole.safetensors" if has_weights else "none"
    (tmp_path / "card.yaml").write_text(f"architecture: timm/test_resnet\nweights: {weights}\n")
    values = {"data": {"folder": "photos"}, "model": {"backbone": "card.yaml", "preprocess": SMALL}}
    recipe = with_unfreeze(resolve(from_mapping(values), tmp_path), flags)
    made = ft.Classifier.from_recipe(recipe, ["a", "b"])
    assert made.unfreeze == learns
    plan = made.plan()
    learning = plan.phases[0].learning
    assert set(plan.groups["head"]) & learning
    assert any(name.startswith("conv1") for name in learning) == (not has_weights)

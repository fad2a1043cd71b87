"""Layers that have learned nothing are not frozen by mistake; who wants random features says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file

import finetune as ft
from finetune.model.backbones import build

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
    pattern = refused.value.remedy.split("--unfreeze ")[1].split(")")[0]
    classifier(partial, ["head", pattern]).plan()

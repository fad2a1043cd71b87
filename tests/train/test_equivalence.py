"""A cached run is the uncached run, for each family of networks and wherever the freeze line lies (fp32, SGD)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import Classifier, ImageFolder

NETWORKS: dict[str, dict[str, Any]] = {
    "timm/resnet18": {},
    "timm/mobilenetv2_100": {},
    "timm/efficientnet_b0": {},
    "timm/densenet121": {},
    "timm/convnext_tiny": {},
    "timm/vit_tiny_patch16_224": {},
    "timm/swin_tiny_patch4_window7_224": {},
    "torchvision/squeezenet1_1": {},
    "small/mlp": {"in_chans": 1},
}
DEPTHS: dict[str, dict[str, int]] = {
    "the head": {"head": 0},
    "the last group": {"head": 0, "last:1": 0},
    "half of them": {"head": 0, "last:2": 0},
}


def trained(folder: Path, name: str, unfreeze: dict[str, int], cache: str) -> tuple[torch.Tensor, torch.Tensor, int]:
    """All weights as one vector before and after four steps, and how many rows came out of tables."""
    data = ImageFolder(folder).split(val=0.25, test=0.25, seed=0)
    preprocess = {} if name == "small/mlp" else {"size": 64}
    given = NETWORKS[name]
    clf = Classifier(
        name, data.classes, weights="none", weights_missing="allow", unfreeze=unfreeze, preprocess=preprocess, **given
    )
    clf.compute = clf.compute.in_fp32()
    before = vector(clf)
    trainer = clf.trainer(data, train_config(cache), augment="none")
    list(trainer)
    return before, vector(clf), trainer.stats.served


def train_config(cache: str) -> Any:
    from finetune.recipe.section import train_config

    return train_config(epochs=2, batch_size=6, optimizer="sgd", lr=0.01, cache=cache)


def vector(clf: Classifier) -> torch.Tensor:
    return torch.cat([value.double().flatten() for value in clf.network.module.state_dict().values()])


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_cached_run_is_the_uncached_run(tiny: Path, name: str, depth: str) -> None:
    before, plain, none = trained(tiny, name, DEPTHS[depth], "off")
    _, cached, served = trained(tiny, name, DEPTHS[depth], "auto")
    assert none == 0
    assert served > 0 or (name, depth) == ("small/mlp", "half of them")  # there the first layer learns
    assert not torch.equal(plain, before)
    assert (cached - plain).norm() < 1e-3 * plain.norm()
    assert (cached - plain).norm() < 1e-2 * (plain - before).norm()

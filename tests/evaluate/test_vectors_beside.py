"""The vectors that evaluating leaves are those that an encoder makes of the same images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finetune.data.batches import load_images
from finetune.data.folder import ImageFolder
from finetune.deliver.image_map import vectors_of
from finetune.device import choose
from finetune.evaluate.evaluation import evaluate_images
from finetune.model.backbones import build
from tests import makers


@pytest.mark.parametrize("features", ["last", "stages"])
def test_evaluating_leaves_the_vectors_of_the_encoder(tmp_path: Path, features: str) -> None:
    folder = ImageFolder(makers.class_folders(tmp_path / "photos", {"ant": 30, "bee": 30}))
    size = {"size": [32, 32]}
    network = build("timm/test_resnet", folder.classes, "none", preprocess=size, features=features)
    assert network.features == features
    images, compute = load_images(folder.split().train, network.preprocess), choose("cpu", "fp32")
    evaluated = evaluate_images(network, images, compute)
    assert evaluated.vectors is not None
    places = [0, 3, len(images) - 1]
    np.testing.assert_allclose(
        evaluated.vectors[places], vectors_of(network, images, places, compute), rtol=0, atol=1e-4
    )
    again = evaluate_images(network, images, compute, logits=np.zeros((len(images), 2), dtype=np.float32))
    assert again.vectors is None

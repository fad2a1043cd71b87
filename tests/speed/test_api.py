"""The switch: `speed: off` is plain PyTorch, and what `auto` does instead comes to the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from finetune.classifier import Classifier
from finetune.device import Compute, choose
from finetune.errors import UsageError
from finetune.evaluate.evaluation import forward_of
from finetune.model.network import Network
from finetune.model.plan import Phase
from finetune.recipe.load import load
from finetune.speed.api import cache_key, optimize_for_inference
from finetune.speed.optimized import Optimized
from finetune.story.recipes import prepare
from finetune.train.phase import PhaseLearner
from finetune.train.state import Settings

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
OFF = Compute(torch.device("cpu"), "fp32", channels_last=True, threads=1, speed="off")
AUTO = replace(OFF, speed="auto")
STEPS, BATCH = 2, 4

ALONE = """
import sys
import torch
from finetune.classifier import Classifier
from finetune.device import choose
from finetune.evaluate.evaluation import forward_of
from finetune.train.phase import PhaseLearner
from finetune.train.state import Settings

clf = Classifier("timm/test_resnet", ["a", "b"], weights="none", unfreeze={"all": 0}, precision="bf16", device="cpu")
network, plan = clf.network, clf.plan(1)
learner = PhaseLearner(network.module, plan, plan.phases[0], Settings(), clf.compute, network.preprocess.example())
learner.rate(0, 0, 1)
images = torch.randn(4, 3, *network.preprocess.size)
learner.step([((images,), torch.tensor([0, 1, 0, 1]))], 4, 0)
with torch.inference_mode():
    forward_of(network, clf.compute.in_fp32(), 1000)(torch.zeros(1, *network.preprocess.size, 3, dtype=torch.uint8))
print(sorted(name for name in sys.modules if name.startswith("finetune.speed")))
"""


def test_off_imports_nothing_of_the_room_but_the_door() -> None:
    alone = {**os.environ, "FINETUNE_SPEED": "off"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE], capture_output=True, text=True, check=False, timeout=120, env=alone
    )
    assert done.stdout.strip() == "['finetune.speed', 'finetune.speed.api']", done.stderr


def test_what_the_environment_says_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("cpu").speed == "auto"
    monkeypatch.setenv("FINETUNE_SPEED", "OFF")
    assert choose("cpu").speed == "off"
    monkeypatch.setenv("FINETUNE_SPEED", "of")
    with pytest.raises(UsageError, match="FINETUNE_SPEED"):
        choose("cpu")


def test_the_cache_tells_the_two_apart() -> None:
    assert cache_key(OFF) == []
    assert "folded" in cache_key(AUTO)
    module = torch.nn.Linear(2, 2)
    assert optimize_for_inference(module, None, OFF) is module
    assert isinstance(optimize_for_inference(module, None, AUTO), Optimized)


# --- the shipped recipes ---------------------------------------------------------------------------------------------


def classifier_of(recipe: Path) -> Classifier:
    """The recipe's network in the phases of the recipe; published weights are left out, there is no network here."""
    resolved = prepare(load(recipe))
    model = resolved.model
    if model.backbone.startswith("timm/"):
        small = model.preprocess.model_copy(update={"size": (64, 64)})
        model = model.model_copy(update={"weights": "none", "weights_missing": "allow", "preprocess": small})
    classes = ["a", "b"] if resolved.data.positive is None else ["not", resolved.data.positive]
    resolved = resolved.model_copy(
        update={
            "model": model,
            "train": resolved.train.model_copy(update={"device": "cpu", "precision": "fp32"}),
        }
    )
    return Classifier.from_recipe(resolved, classes)


def learned(recipe: Path, compute: Compute) -> tuple[Network, torch.Tensor]:
    """The network after two steps of SGD in each of its phases, and all its weights in one vector."""
    torch.manual_seed(0)
    classifier, epochs = classifier_of(recipe), load(recipe).train.epochs
    network, plan = classifier.network, classifier.plan(epochs)
    images, labels = pixels_for(network), torch.arange(BATCH) % len(network.classes)
    compute = replace(compute, channels_last=network.convolutional)
    settings = Settings(batch_size=BATCH, optimizer="sgd", keep_statistics=load(recipe).train.batchnorm != "update")
    module = compute.place(network.module)
    for phase in plan.phases:
        learner = PhaseLearner(module, plan, phase, settings, compute, network.preprocess.example())
        steps(learner, phase, images, labels, network)
    return network, torch.cat([value.flatten().double() for value in network.module.state_dict().values()])


def steps(learner: PhaseLearner, phase: Phase, images: torch.Tensor, labels: torch.Tensor, network: Network) -> None:
    with torch.no_grad():
        values = learner.cut.prefix(network.preprocess.normalise(images))
    learner.train_mode()
    for number in range(STEPS):
        learner.rate(phase.start, number, STEPS)
        torch.manual_seed(number)
        learner.step([(values, labels)], BATCH, number)


def pixels_for(network: Network) -> torch.Tensor:
    shape = (BATCH, *network.preprocess.size, network.preprocess.channels)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_each_shipped_recipe_learns_and_answers_the_same_both_ways(recipe: Path) -> None:
    (network, plain), (other, fast) = (learned(recipe, compute) for compute in (OFF, AUTO))
    assert float((fast - plain).norm() / plain.norm()) < 1e-3
    pixels = pixels_for(network)
    with torch.inference_mode():
        expected = forward_of(network, OFF)(pixels)
        found = forward_of(other, AUTO, images=1000)(pixels)
    assert float((found - expected).abs().max()) <= 1e-3 * max(1.0, float(expected.abs().max()))

"""What each layer group makes of a picture is what the network really computes, and the network stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from finetune.device import Compute, choose
from finetune.evaluate.activations import pass_through
from finetune.model.backbones import build
from finetune.model.network import Network

CPU: Compute = choose("cpu", "fp32")


def picture(network: Network, seed: int = 0) -> np.ndarray:
    height, width = network.preprocess.size
    shape = (height, width, network.preprocess.channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def made(backbone: str, **options: object) -> Network:
    size = {} if backbone.startswith("small/") else {"preprocess": {"size": 64}}
    return build(backbone, ["ant", "bee", "cat"], weights="none", options=options, **size)


def hooks(network: Network) -> int:
    return sum(len(module._forward_hooks) for module in network.module.modules())


def test_an_mlp_is_seen_after_its_activations_with_what_its_neurons_look_for() -> None:
    network = made("small/mlp")
    pixels = picture(network)
    passage = pass_through(network, pixels, CPU, name="x.png", truth="ant")
    net = network.module
    with torch.no_grad():
        values = net.get_submodule("fc1")(
            network.preprocess.normalise(torch.from_numpy(pixels[None])).flatten(1)
        ).relu()
        following = net.get_submodule("fc2")(values).relu()
        scores = net.get_submodule("fc3")(following)
    assert [(one.group, one.shape, one.layout) for one in passage.activations] == [
        ("fc1", (128,), "vector"),
        ("fc2", (64,), "vector"),
        ("head", (3,), "vector"),
    ]
    for one, expected in zip(passage.activations, (values, following, scores), strict=True):
        np.testing.assert_allclose(one.values, expected[0].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(passage.probabilities, scores[0].double().softmax(0).numpy(), rtol=1e-5)
    first, *others = passage.activations
    assert first.weights is not None
    assert first.weights.shape == (128, 1, 28, 28)
    np.testing.assert_array_equal(first.weights.reshape(128, -1), net.get_submodule("fc1").weight.detach().numpy())
    assert [one.weights for one in others] == [None, None]


def test_maxout_has_no_one_weight_for_a_value() -> None:
    first = pass_through(network := made("small/mlp", activation="maxout"), picture(network), CPU).activations[0]
    assert first.shape == (128,)
    assert first.weights is None


def test_a_logistic_regression_has_a_picture_for_each_class() -> None:
    network = made("small/logistic")
    (only,) = pass_through(network, picture(network), CPU).activations
    assert only.group == "head"
    assert only.weights is not None
    assert only.weights.shape == (3, 1, 28, 28)


@pytest.mark.parametrize(
    ("backbone", "options", "shapes"),
    [
        ("timm/test_resnet", {}, {"stem": (32, 16, 16), "layer4": (96, 2, 2), "head": (3,)}),
        ("timm/test_vit", {"img_size": 64}, {"stem": (17, 64), "final": (17, 64), "head": (3,)}),
        ("timm/test_convnext", {}, {"stem": (24, 16, 16), "stages.3": (64, 2, 2), "head": (3,)}),
        ("torchvision/squeezenet1_1", {}, {"head": (3, 3, 3)}),
    ],
)
def test_groups_have_their_true_shapes_in_forward_order(
    backbone: str, options: dict[str, object], shapes: dict[str, tuple[int, ...]]
) -> None:
    network = made(backbone, **options)
    found = {one.group: one for one in pass_through(network, picture(network), CPU).activations}
    assert list(found) == list(network.groups)
    assert {group: found[group].shape for group in shapes} == shapes
    for one in found.values():
        if one.layout == "maps":
            assert one.values.shape[1] == one.values.shape[2]
            assert one.values.size <= np.prod(one.shape)


def test_patch_tokens_lie_on_their_grid_without_the_class_token() -> None:
    network = made("timm/test_vit", img_size=64)
    pixels = picture(network)
    seen: list[torch.Tensor] = []
    handle = network.module.get_submodule("blocks.1").register_forward_hook(lambda *given: seen.append(given[2]))
    one = next(one for one in pass_through(network, pixels, CPU).activations if one.group == "blocks.1")
    handle.remove()
    assert one.layout == "maps"
    assert one.values.shape == (64, 4, 4)
    np.testing.assert_array_equal(one.values[:, 2, 1], seen[0][0, 1 + 2 * 4 + 1].numpy())


class InPlace(nn.Module):
    """Each layer's output is written over by what follows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Conv2d(3, 5, 4, stride=4)
        self.layer2 = nn.Conv2d(5, 5, 1)
        self.fc = nn.Linear(5, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values = self.layer2(self.layer1(images).relu_()).neg_()
        scores: torch.Tensor = self.fc(values.mean((2, 3)))
        return scores


def test_what_is_written_over_later_is_seen_as_it_was() -> None:
    network = made("timm/test_resnet")
    network.module = InPlace()
    network.groups = {"layer1": ["layer1.weight", "layer1.bias"], "layer2": ["layer2.weight", "layer2.bias"]}
    network.groups["head"] = ["fc.weight", "fc.bias"]
    pixels = picture(network)
    first, second, _ = pass_through(network, pixels, CPU).activations
    with torch.no_grad():
        inputs = network.preprocess.normalise(torch.from_numpy(pixels[None]))
        convolved = network.module.layer1(inputs)
        expected = network.module.layer2(convolved.relu())
    np.testing.assert_allclose(first.values, convolved[0].numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(second.values, expected[0].numpy(), rtol=1e-4, atol=1e-5)


def test_channels_that_come_last_are_told_from_the_sides_of_the_picture() -> None:
    network = build("timm/swin_s3_tiny_224", ["ant", "bee"], weights="none")
    found = pass_through(network, picture(network), CPU).activations
    assert found[1].shape[0] == found[1].shape[1] == 56
    assert all(one.values.shape[1] == one.values.shape[2] for one in found if one.layout == "maps")


def test_no_hook_is_left_whatever_happens() -> None:
    network = made("small/mlp")
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    pass_through(network, picture(network), CPU)
    assert hooks(network) == 0
    with pytest.raises(RuntimeError):
        pass_through(network, np.zeros((5, 5, 1), np.uint8), CPU)
    assert hooks(network) == 0
    assert all(torch.equal(value, before[name]) for name, value in network.module.state_dict().items())

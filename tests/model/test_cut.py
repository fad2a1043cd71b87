"""The cut network is the network, cut at any depth; and the traps in between."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from finetune.model import small
from finetune.model.cut import Cut, cut
from finetune.model.freeze import set_learning, set_modes

CLASSES = 5
SWIN = {"img_size": 64, "depths": (2, 2, 2, 2)}
# Architecture, pixels, options, and the first parameter that learns: in the head, in the last stages, in the middle.
NETWORKS: list[tuple[str, int, dict[str, Any], tuple[str, ...]]] = [
    ("timm/resnet18", 64, {}, ("fc.", "layer4.", "layer2.1.bn1.")),
    ("timm/mobilenetv2_035", 64, {"drop_path_rate": 0.1}, ("classifier.", "blocks.6.", "blocks.3.1.conv_dw.")),
    ("timm/mobilenetv3_small_050", 64, {"drop_rate": 0.2}, ("classifier.", "conv_head.", "blocks.2.1.se.")),
    ("timm/efficientnet_b0", 64, {}, ("classifier.", "conv_head.", "blocks.4.")),
    ("timm/densenet121", 32, {}, ("classifier.", "features.denseblock4.", "features.denseblock3.denselayer9.conv2.")),
    ("timm/convnext_tiny", 32, {"drop_path_rate": 0.1}, ("head.fc.", "stages.3.", "stages.2.blocks.4.gamma")),
    ("timm/vit_tiny_patch16_224", 32, {"img_size": 32}, ("head.", "blocks.10.", "blocks.6.mlp.")),
    ("timm/swin_tiny_patch4_window7_224", 64, SWIN, ("head.", "layers.3.", "layers.2.blocks.1.attn.proj.")),
    ("timm/hrnet_w18_small", 32, {}, ("classifier.", "stage4.", "stage3.0.fuse_layers.1.")),
    ("timm/regnety_002", 64, {}, ("head.", "s4.", "s3.b2.se.")),
    ("torchvision/mobilenet_v3_small", 64, {}, ("classifier.3.", "features.11.", "features.6.block.1.")),
    ("torchvision/densenet121", 32, {}, ("classifier.", "features.denseblock4.", "features.denseblock3.denselayer9.")),
    ("torchvision/convnext_tiny", 32, {}, ("classifier.2.", "features.7.")),
    ("torchvision/squeezenet1_1", 64, {}, ("classifier.1.", "features.11.", "features.7.expand3x3.")),
    ("torchvision/vit_b_32", 64, {"image_size": 64, "num_layers": 4}, ("heads.", "encoder.ln.", "encoder.layers.enc")),
    ("torchvision/swin_t", 64, {}, ("features.7.1.attn.proj.",)),
    ("small/mlp", 28, {"hidden": (16, 12, 8)}, ("fc4.", "fc3.", "fc2.")),
]
CASES = [
    pytest.param(name, size, options, first, id=f"{name}-{first.rstrip('.')}")
    for name, size, options, firsts in NETWORKS
    for first in firsts
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Threads that wait for each other cost more than they bring with tensors this small."""
    torch.set_num_threads(1)


@cache
def network(name: str, options: tuple[tuple[str, Any], ...]) -> nn.Module:
    library, _, architecture = name.partition("/")
    torch.manual_seed(0)
    if library == "timm":
        module: nn.Module = timm.create_model(architecture, num_classes=CLASSES, **dict(options))
    elif library == "small":
        module = small.create(architecture, CLASSES, 3, dict(options), None)
    elif dict(options).get("num_layers"):
        module = torchvision.models.VisionTransformer(
            patch_size=32, num_heads=4, hidden_dim=64, mlp_dim=128, num_classes=CLASSES, **dict(options)
        )
    else:
        module = torchvision.models.get_model(architecture, num_classes=CLASSES, **dict(options))
    with torch.no_grad():
        for parameter in module.parameters():  # heads and scales that start at zero would hide a wrong cut
            parameter.add_(torch.randn_like(parameter) * 1e-2)
    return module.eval()


def in_phase(module: nn.Module, first: str) -> tuple[nn.Module, list[str]]:
    """A copy in which the parameters from `first` on learn, in the modes of such a phase."""
    module = copy.deepcopy(module)
    names = [name for name, _ in module.named_parameters()]
    learning = names[next(i for i, name in enumerate(names) if name.startswith(first)) :]
    set_learning(module, learning)
    set_modes(module, learning, keep_statistics=False)
    return module, learning


def steps(module: nn.Module, logits: Callable[[], torch.Tensor], labels: torch.Tensor) -> None:
    """Three steps of SGD, with the same random numbers each time this is called."""
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
    for step in range(3):
        torch.manual_seed(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits(), labels).backward()
        optimizer.step()


def below(found: Cut, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return found.prefix(images)


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize(("name", "size", "options", "first"), CASES)
def test_the_parts_are_the_network(name: str, size: int, options: dict[str, Any], first: str) -> None:
    whole, learning = in_phase(network(name, tuple(options.items())), first)
    parted = copy.deepcopy(whole)
    before = state(whole)
    images, labels = torch.randn(5, 3, size, size), torch.arange(5) % CLASSES

    modes = {name: child.training for name, child in parted.named_modules()}
    marks = {name: sorted(vars(child)) for name, child in parted.named_modules()}
    random = torch.get_rng_state()
    found = cut(parted, learning, example=images[:2])
    assert torch.equal(torch.get_rng_state(), random)
    assert not found.no_prefix, found.where
    assert {name: child.training for name, child in parted.named_modules()} == modes
    assert {name: sorted(vars(child)) for name, child in parted.named_modules()} == marks
    assert all(torch.equal(value, before[key]) for key, value in parted.state_dict().items())
    assert list(parted.state_dict()) == list(before)

    values = below(found, images)
    kept = [value.clone() for value in values]
    assert sum(value[0].numel() * 4 for value in values) == found.bytes_per_image
    assert {len(value) for value in values} == {5}
    steps(parted, lambda: found.suffix(*values), labels)
    steps(whole, lambda: whole(images), labels)

    assert all(torch.equal(a, b) for a, b in zip(values, kept, strict=True))
    learned, trained = state(whole), state(parted)
    assert any(not torch.equal(trained[key], before[key]) for key in learning)
    for key, value in trained.items():
        torch.testing.assert_close(value, learned[key], rtol=1e-5, atol=1e-6, msg=key)
    difference = sum(float((trained[key] - learned[key]).square().sum()) for key in learning) ** 0.5
    assert difference <= 1e-6 * sum(float(learned[key].square().sum()) for key in learning) ** 0.5
    assert all(torch.equal(trained[name], before[name]) for name, p in parted.named_parameters() if not p.requires_grad)

    parted.eval()
    with torch.inference_mode():
        torch.testing.assert_close(
            found.eval_suffix(*found.prefix(images[:1])), parted(images[:1]), rtol=1e-6, atol=1e-6
        )


# --- where it is cut -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "first", "where", "values"),
    [
        ("timm/resnet18", {}, "fc.", "before the head", [(512,)]),
        ("timm/resnet18", {}, "layer4.", "before layer4", [(256, 4, 4)]),
        ("timm/resnet18", {}, "layer2.1.bn1.", "before layer2.1.bn1", [(128, 8, 8), (128, 8, 8)]),
        ("timm/vit_tiny_patch16_224", {"img_size": 32}, "blocks.10.", "before blocks.10", [(5, 192)]),
        ("torchvision/squeezenet1_1", {}, "classifier.1.", "before the head", [(512, 3, 3)]),
    ],
)
def test_where_it_is_cut(
    name: str, options: dict[str, Any], first: str, where: str, values: list[tuple[int, ...]]
) -> None:
    module, learning = in_phase(network(name, tuple(options.items())), first)
    size = options.get("img_size", 64)
    found = cut(module, learning, example=torch.zeros(1, 3, size, size))
    assert found.where == where
    assert [tuple(value.shape[1:]) for value in below(found, torch.zeros(3, 3, size, size))] == values


def test_a_windowed_transformer_crosses_image_by_image() -> None:
    module, learning = in_phase(
        network("timm/swin_tiny_patch4_window7_224", tuple(SWIN.items())), "layers.1.blocks.0.attn.proj"
    )
    found = cut(module, learning, example=torch.zeros(1, 3, 64, 64))
    assert {len(value) for value in below(found, torch.zeros(7, 3, 64, 64))} == {7}


def test_a_dense_block_crosses_once() -> None:
    module, learning = in_phase(network("timm/densenet121", ()), "features.denseblock3.denselayer9.norm1.")
    found = cut(module, learning, example=torch.zeros(1, 3, 32, 32))
    # the 256 channels at the block's start and 32 of each of 8 layers; not once more all together, for the 9th layer
    assert sum(value.shape[1] for value in below(found, torch.zeros(1, 3, 32, 32))) == 256 + 8 * 32


# --- traps -----------------------------------------------------------------------------------------------------------


class Trap(nn.Module):
    """Two layers with something awkward in between."""

    def __init__(self, between: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.scale = nn.Linear(12, 6), nn.Parameter(torch.full((6,), 2.0))
        self.head = nn.Linear(6, CLASSES)
        self.between = between

    def forward(self, images: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        values = self.between(self, self.first(images.flatten(1)))
        return self.head(values if mask is None else values * mask.float())


def written_to_where_it_learns(module: Any, x: torch.Tensor) -> torch.Tensor:
    return x.mul_(module.scale)


def read_after_it_was_written_to(module: Any, x: torch.Tensor) -> torch.Tensor:
    x.mul_(module.scale)
    return x + x.abs()


def overwritten_after_it_was_read(module: Any, x: torch.Tensor) -> torch.Tensor:
    return x * module.scale + x.relu_()


def written_to_through_a_view(module: Any, x: torch.Tensor) -> torch.Tensor:
    x.view(-1, 3, 2).mul_(module.scale.view(3, 2))
    return x + 1


def dropped_out_in_place(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.dropout(x, 0.5, training=module.training, inplace=True)


def random_by_hand(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x + torch.randn_like(x) if module.training else x


def otherwise_in_evaluation(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x.relu() if module.training else x.relu() * 0.5


def shaped_by_the_batch(module: Any, x: torch.Tensor) -> torch.Tensor:
    n, c = x.shape
    return (x.reshape(n * 2, c // 2) * module.scale.view(2, 3)[0]).reshape(n, c) * (x.size(0) / n)


def mixed_with_other_shapes(module: Any, x: torch.Tensor) -> torch.Tensor:
    rows = x.reshape(-1, 2).cos()
    return (rows * module.scale[:2]).reshape(x.shape)


def overlapping(module: Any, x: torch.Tensor) -> torch.Tensor:
    left, right = x[:, :4], x[:, 2:]
    left.mul_(module.scale[:4])
    return torch.cat([left[:, :2], right], 1)


def repeated_although_overwritten(module: Any, x: torch.Tensor) -> torch.Tensor:
    rows = x.reshape(-1, 2).cos()
    return (rows * module.scale[:2]).reshape(x.shape) + x.relu_()


def the_same_before_and_after(module: Any, x: torch.Tensor) -> torch.Tensor:
    before = x.abs()
    x.relu_()
    return before * module.scale + x.abs()


def something_else_in_evaluation(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x.sigmoid() if module.training else x.tanh()


def written_to_otherwise_in_evaluation(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x.mul_(2 if module.training else 3)
    return x


@pytest.mark.parametrize(
    "between",
    [
        overlapping,
        repeated_although_overwritten,
        the_same_before_and_after,
        something_else_in_evaluation,
        written_to_otherwise_in_evaluation,
        written_to_where_it_learns,
        read_after_it_was_written_to,
        overwritten_after_it_was_read,
        written_to_through_a_view,
        dropped_out_in_place,
        random_by_hand,
        otherwise_in_evaluation,
        shaped_by_the_batch,
        mixed_with_other_shapes,
    ],
)
def test_traps(between: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
    torch.manual_seed(0)
    module = Trap(between)
    learning = ["scale", "head.weight", "head.bias"]
    set_learning(module, learning)
    set_modes(module, learning, keep_statistics=False)
    images = torch.randn(5, 3, 2, 2)
    found = cut(module, learning, example=images)
    assert not found.no_prefix, found.where
    values = below(found, images)
    assert {len(value) for value in values} == {5}
    for _ in range(2):  # the second time, with the same values
        torch.manual_seed(1)
        logits = found.suffix(*values)
        torch.manual_seed(1)
        torch.testing.assert_close(logits, module(images), rtol=0, atol=1e-6)
    grads = torch.autograd.grad(logits.square().sum(), list(module.head.parameters()))
    assert all(bool(grad.any()) for grad in grads)
    module.eval()
    torch.testing.assert_close(found.eval_suffix(*values), module(images), rtol=0, atol=1e-6)


def test_statistics_kept_by_hand_are_updated() -> None:
    def between(module: Any, x: torch.Tensor) -> torch.Tensor:
        if module.training:
            module.mean.lerp_(x.mean(0), 0.1)
            return x
        return x - module.mean

    module = Trap(between)
    module.register_buffer("mean", torch.zeros(6))
    images = torch.randn(5, 3, 2, 2)
    found = cut(module, ["head.weight", "head.bias"], example=images)
    assert not found.no_prefix, found.where
    assert not module.mean.any()
    found.suffix(*below(found, images))
    torch.testing.assert_close(module.mean, module.first(images.flatten(1)).mean(0) * 0.1)


def counted(module: Any, x: torch.Tensor) -> torch.Tensor:
    module.calls.add_(1)
    return x * module.calls


def averaged(module: Any, x: torch.Tensor) -> torch.Tensor:
    return x - module.calls.lerp_(x.mean(), 0.1)


def other_without_gradients(module: Any, x: torch.Tensor) -> torch.Tensor:
    return x if torch.is_grad_enabled() else x * 2


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (counted, "(RuntimeError: a buffer changes whatever the images are, which no trace shows)"),
        (averaged, "it is random, or changes a buffer, in evaluation too"),
        (other_without_gradients, "the two parts did not give what the whole network gives"),
    ],
)
def test_nothing_is_cut_where_the_graph_is_not_the_network(
    between: Callable[[nn.Module, torch.Tensor], torch.Tensor], reason: str
) -> None:
    module = Trap(between)
    module.register_buffer("calls", torch.zeros(()))
    found = cut(module, ["scale", "head.weight", "head.bias"], example=torch.zeros(1, 3, 2, 2))
    assert found.no_prefix
    assert reason in found.where
    assert not module.calls


class Branching(nn.Module):
    """Which way depends on the values: this cannot be traced."""

    def __init__(self, *, after: float = 1.0, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Linear(12, 6)
        self.head = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 8), nn.Linear(8, CLASSES))
        self.after, self.dropout = after, dropout

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.body(images.flatten(1))
        if x.sum() > 0:
            x = x * 2
        return self.head(nn.functional.dropout(x, self.dropout, self.training)) * self.after


def of_branching(learning: list[str], **options: float) -> tuple[nn.Module, Cut, torch.Tensor]:
    torch.manual_seed(0)
    module, images = Branching(**options), torch.randn(4, 3, 2, 2)
    set_modes(module, learning, keep_statistics=False)
    return module, cut(module, learning, example=images), images


def test_a_network_that_cannot_be_traced_is_cut_before_its_head() -> None:
    module, found, images = of_branching(["head.1.weight", "head.2.weight"])
    assert not found.no_prefix
    assert (found.where, found.bytes_per_image) == ("before the head", 24)
    values = below(found, images)
    kept = values[0].clone()
    assert torch.equal(found.suffix(*values), module(images))
    assert torch.equal(values[0], kept)
    assert torch.equal(found.eval_suffix(*values), module.eval()(images))


@pytest.mark.parametrize(
    ("learning", "options"),
    [
        (["body.weight", "head.2.weight"], {}),  # more than the head learns
        (["head.2.weight"], {"after": 2.0}),  # something comes after the head
        (["head.2.weight"], {"dropout": 0.5}),  # what comes before it is random
    ],
)
def test_where_that_is_not_the_network_nothing_is_cut(learning: list[str], options: dict[str, float]) -> None:
    module, found, images = of_branching(learning, **options)
    assert found.no_prefix
    assert found.where.startswith("at the images: the network cannot be traced (TraceError: ")
    assert found.prefix(images)[0] is images
    assert found.suffix is module
    assert found.eval_suffix is module


@pytest.mark.parametrize("first", ["", "conv1."])
def test_nothing_is_cut_where_the_first_layer_learns(first: str) -> None:
    module, learning = in_phase(network("timm/resnet18", ()), first)
    found = cut(module, learning, example=torch.zeros(1, 3, 64, 64))
    assert (found.no_prefix, found.where) == (True, "at the images: the first layer learns")


def test_nothing_is_cut_without_an_example() -> None:
    module, learning = in_phase(network("timm/resnet18", ()), "fc.")
    assert cut(module, learning).no_prefix


def test_the_parts_run_the_networks_own_layers() -> None:
    module, learning = in_phase(network("timm/resnet18", ()), "layer4.")
    found = cut(module, learning, example=torch.zeros(1, 3, 64, 64))
    assert isinstance(found.prefix, nn.Module)
    assert isinstance(found.suffix, nn.Module)
    own = dict(module.named_parameters())
    parts = {**dict(found.prefix.named_parameters()), **dict(found.suffix.named_parameters())}
    assert parts.keys() == own.keys()
    assert all(parts[name] is own[name] for name in own)
    assert {name for name, _ in found.suffix.named_parameters()} == set(learning)

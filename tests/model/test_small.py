"""The small networks: what they are, how they are named, and what they load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from finetune.errors import UsageError
from finetune.model.backbones import build, list_backbones
from finetune.model.small import ACTIVATIONS

DIGITS = [str(digit) for digit in range(10)]


class FullyConnectedNN(nn.Module):
    """The notebook's network, as the lecture notes print it (Listing 1)."""

    def __init__(self, input_size: tuple[int, int]) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(input_size[0] * input_size[1], 128)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(self.fc1.out_features, 64)
        self.fc3 = nn.Linear(self.fc2.out_features, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.fc1(self.flatten(x)))
        return self.fc3(self.relu(self.fc2(x)))


@pytest.fixture
def notebook(tmp_path: Path) -> tuple[FullyConnectedNN, Path]:
    """A network and the checkpoint that the notebook's lines write of it (Listing 2)."""
    torch.manual_seed(3)
    model = FullyConnectedNN((28, 28))
    optimizer = torch.optim.Adam(model.parameters())
    path = tmp_path / "model_checkpoint.pth"
    torch.save(
        {
            "epoch": 4,
            "model_state_dict": model.state_dict(),
            "optimizer_state_dict": optimizer.state_dict(),
            "loss": 0.1,
        },
        path,
    )
    return model, path


def test_the_mlp_is_the_notebooks_network(notebook: tuple[FullyConnectedNN, Path]) -> None:
    network = build("small/mlp", DIGITS)
    model, _ = notebook
    model.load_state_dict(network.module.state_dict())
    images = torch.randn(5, 1, 28, 28)
    assert torch.equal(model(images), network.module(images))
    assert list(network.groups) == ["fc1", "fc2", "head"]
    assert network.head == "fc3"
    assert network.preprocess.as_dict() == {
        "size": [28, 28],
        "mean": [0.1307],
        "std": [0.3081],
        "interpolation": "bilinear",
        "crop": 1.0,
        "crop_mode": "center",
        "range": None,
        "max_megapixels": 100.0,
    }
    assert not network.pretrained


def test_the_notebooks_checkpoint_is_a_weights_file(notebook: tuple[FullyConnectedNN, Path]) -> None:
    model, path = notebook
    network = build("small/mlp", ["a", "b", "c"], weights=str(path))
    found, given = network.module.state_dict(), model.state_dict()
    assert all(torch.equal(found[name], given[name]) for name in given if not name.startswith("fc3"))
    assert found["fc3.weight"].shape == (3, 64)
    assert network.pretrained
    assert any("fc3.weight" in note and "replaced by a new head" in note for note in network.notes)


@pytest.mark.parametrize("name", ["logistic", "perceptron"])
def test_one_linear_layer_is_all_head(name: str) -> None:
    network = build(f"small/{name}", DIGITS)
    assert network.groups == {"head": ["fc.weight", "fc.bias"]}
    assert network.parameters == {"fc.weight": 7840, "fc.bias": 10}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_between_any_layers_at_any_size(activation: str) -> None:
    options = {"hidden": [6, 5, 4], "activation": activation, "dropout": 0.5}
    network = build("small/mlp", ["a", "b"], options=options, preprocess={"size": [7, 9]}, in_chans=3)
    assert list(network.groups) == ["fc1", "fc2", "fc3", "head"]
    times = 2 if activation == "maxout" else 1
    assert network.parameters["fc1.weight"] == 7 * 9 * 3 * 6 * times
    assert network.module(torch.randn(4, 3, 7, 9)).shape == (4, 2)


def test_maxout_takes_the_largest_piece() -> None:
    network = build("small/mlp", ["a", "b"], options={"hidden": [3], "activation": "maxout", "pieces": 4})
    images, layers = torch.randn(2, 1, 28, 28), network.module.state_dict()
    hidden = images.flatten(1) @ layers["fc1.weight"].T + layers["fc1.bias"]
    largest = torch.stack([hidden[:, unit * 4 : unit * 4 + 4].max(dim=1).values for unit in range(3)], dim=1)
    expected = largest @ layers["fc2.weight"].T + layers["fc2.bias"]
    torch.testing.assert_close(network.module(images), expected)


def test_one_hidden_layer_is_one_group() -> None:
    assert list(build("small/mlp", ["a", "b"], options={"hidden": [5]}).groups) == ["fc1", "head"]


def test_the_size_may_be_an_option_or_the_preprocessings() -> None:
    assert build("small/logistic", ["a", "b"], options={"size": 8}).preprocess.size == (8, 8)
    assert build("small/logistic", ["a", "b"], preprocess={"size": 8}).parameters["fc.weight"] == 128


def test_colour_and_grey() -> None:
    assert build("small/mlp", ["a", "b"]).in_chans == 1
    assert build("small/mlp", ["a", "b"], in_chans=3).preprocess.mean == (0.1307,) * 3
    assert build("timm/test_resnet", ["a", "b"], weights="none").in_chans == 3


def test_the_same_seed_gives_the_same_network() -> None:
    first, again, other = (build("small/mlp", ["a", "b"], seed=seed).module.fc1.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"activation": "rellu"}, "did you mean 'relu'"),
        ({"hidden": [0]}, "options.hidden"),
        ({"hidden": 128}, "options.hidden"),
        ({"dropout": 1.0}, "options.dropout"),
        ({"widths": [3]}, "options.widths: unknown"),
        ({"pieces": 3}, "belongs to activation: maxout"),
        ({"size": [0, 3]}, "preprocess.size"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        build("small/mlp", ["a", "b"], options=options)
    assert told in caught.value.problems[0]


def test_only_an_mlp_has_hidden_layers() -> None:
    with pytest.raises(UsageError, match="unknown"):
        build("small/logistic", ["a", "b"], options={"hidden": [3]})


def test_they_are_listed_and_their_names_guessed() -> None:
    assert list_backbones("small/*") == ["small/logistic", "small/mlp", "small/perceptron"]
    with pytest.raises(UsageError, match="did you mean 'perceptron'"):
        build("small/perceptrn", ["a", "b"])

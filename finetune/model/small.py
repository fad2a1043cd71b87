"""Small networks of our own, trained from scratch: one linear layer, or a few."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from finetune.errors import UsageError, did_you_mean
from finetune.model.lineage import Base
from finetune.model.weights import State

SIZE = (28, 28)
"""Height and width of what is read where nothing else is said: MNIST's."""

NAMES = ("logistic", "mlp", "perceptron")
HIDDEN = (128, 64)


class Maxout(nn.Module):
    """The largest of every `pieces` neighbouring values (Goodfellow et al. 2013, "Maxout Networks")."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """From float [N, width x pieces] to float [N, width]."""
        return values.view(len(values), -1, self.pieces).amax(dim=2)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "maxout": nn.Identity,  # stands for `Maxout`, which needs to know its pieces
}
"""What comes after each hidden layer, by name."""


class Logistic(nn.Module):
    """One linear layer, `fc`: a row of weights and a bias for each class.

    Args:
        inputs: values of a picture.
        classes: outputs.
    """

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(inputs, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """From float [N, C, H, W] to scores [N, classes]."""
        scores: torch.Tensor = self.fc(self.flatten(images))
        return scores


class MLP(nn.Module):
    """Linear layers `fc1`, `fc2`, … with an activation between them; the last gives the scores.

    Args:
        inputs: values of a picture.
        hidden: width of each hidden layer.
        classes: outputs.
        activation: one of `ACTIVATIONS`.
        dropout: probability with which a hidden value is left out in training.
        pieces: linear values of which a maxout takes the largest.
    """

    def __init__(
        self, inputs: int, hidden: Sequence[int], classes: int, activation: str, dropout: float, pieces: int
    ) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.activation = Maxout(pieces) if activation == "maxout" else ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.names = [f"fc{number}" for number in range(1, len(hidden) + 2)]
        times = pieces if activation == "maxout" else 1
        widths = [inputs, *hidden]
        for name, width, following in zip(self.names, widths, [*hidden, None], strict=True):
            self.add_module(name, nn.Linear(width, classes if following is None else following * times))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """From float [N, C, H, W] to scores [N, classes]."""
        values: torch.Tensor = self.flatten(images)
        for name in self.names[:-1]:
            values = self.dropout(self.activation(getattr(self, name)(values)))
        scores: torch.Tensor = getattr(self, self.names[-1])(values)
        return scores


# --- as a library of architectures -----------------------------------------------------------------------------------


def names() -> tuple[str, ...]:
    """Every architecture."""
    return NAMES


def check_name(name: str) -> None:
    """Refuse an unknown name.

    Raises:
        UsageError: with the nearest names.
    """
    if name not in NAMES:
        near = did_you_mean(name, NAMES)
        remedy = f"write {', '.join(f'small/{known}' for known in NAMES)}, or timm/NAME or torchvision/NAME"
        raise UsageError(f"model.backbone: there is no small/{name}{near}", remedy)


def default_preprocess(name: str) -> dict[str, Any]:
    """Grey pictures of 28x28, normalised by mean and standard deviation of MNIST's training images."""
    return {"size": SIZE, "mean": (0.1307,), "std": (0.3081,), "interpolation": "bilinear", "crop": 1.0}


def fixed_size(name: str, options: Mapping[str, Any]) -> tuple[str, tuple[int, int]]:
    """A linear layer has as many weights as the picture has values, so the size is fixed at building."""
    return "size", SIZE


def as_option(option: str, size: tuple[int, int]) -> Any:
    """The value of the option that fixes the input's size: height and width."""
    return list(size)


def own_options(name: str, *, trained: bool, in_chans: int) -> dict[str, Any]:
    """Options that are set where the user sets none."""
    return {}


def published(name: str) -> tuple[State, Base]:
    """Nobody publishes weights for these.

    Raises:
        UsageError: always.
    """
    raise UsageError(f"model.weights: there are no published weights of small/{name}", "use none, or name a file")


def create(name: str, classes: int, in_chans: int, options: Mapping[str, Any], state: State | None) -> nn.Module:
    """The network, initialised as PyTorch does it.

    Raises:
        UsageError: an option that is unknown or has a value that cannot be; all problems at once.
    """
    _check_options(name, options)
    height, width = _sides(options.get("size", SIZE))
    inputs = in_chans * height * width
    if name != "mlp":
        return Logistic(inputs, classes)
    return MLP(
        inputs,
        tuple(options.get("hidden", HIDDEN)),
        classes,
        options.get("activation", "relu"),
        options.get("dropout", 0.0),
        options.get("pieces", 2),
    )


def heads(module: nn.Module, classes: int) -> tuple[str, ...]:
    """Dotted name of the last layer."""
    return (module.names[-1],) if isinstance(module, MLP) else ("fc",)


def _sides(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    problems = [f"model.options.{key}: {problem}" for key, problem in _problems(name, options)]
    if problems:
        known = ", ".join(_KNOWN) if name == "mlp" else "size"
        raise UsageError(problems, f"the options of small/{name} are {known}")


def _problems(name: str, options: Mapping[str, Any]) -> list[tuple[str, str]]:
    known = _KNOWN if name == "mlp" else {"size": _KNOWN["size"]}
    problems = [(key, f"unknown{did_you_mean(str(key), known)}") for key in options if key not in known]
    for key, (fits, what) in known.items():
        if key in options and not fits(options[key]):
            near = did_you_mean(str(options[key]), ACTIVATIONS) if key == "activation" else ""
            problems.append((key, f"{options[key]!r} is not {what}{near}"))
    if "pieces" in options and options.get("activation") != "maxout":
        problems.append(("pieces", "belongs to activation: maxout"))
    return problems


def _whole(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_widths(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(_whole(width) for width in value)


def _is_size(value: Any) -> bool:
    return _whole(value) or (_is_widths(value) and len(value) == 2)


_KNOWN: dict[str, tuple[Callable[[Any], bool], str]] = {
    "size": (_is_size, "a number of pixels, or [height, width]"),
    "hidden": (_is_widths, "a list of widths, one a hidden layer"),
    "activation": (lambda value: isinstance(value, str) and value in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}"),
    "dropout": (lambda value: type(value) in (int, float) and 0 <= value < 1, "a number from 0 to below 1"),
    "pieces": (lambda value: _whole(value) and value >= 2, "a whole number from 2"),
}

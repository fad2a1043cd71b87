"""The classifier at the end of a network: found by its name, replaced, initialised from a seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from finetune.errors import UsageError, did_you_mean
from finetune.model.network import HeadSpec

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw random numbers on the CPU from `seed`; the global generator is afterwards as it was before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def last_layer(module: nn.Module, classes: int) -> str:
    """Dotted name of the last Linear or 1×1 convolution that gives one value a class, or an empty string."""
    name_of_last = ""
    for name, child in module.named_modules():
        if (isinstance(child, nn.Linear) and child.out_features == classes) or (
            isinstance(child, nn.Conv2d) and child.out_channels == classes and child.kernel_size == (1, 1)
        ):
            name_of_last = name
    return name_of_last


def new_head(module: nn.Module, names: Sequence[str], spec: HeadSpec, classes: int, seed: int, *, reset: bool) -> None:
    """Give the network its new classifier, in the place and under the name of the old one.

    Args:
        module: the network, whose classifier already has the right number of outputs.
        names: dotted names of its classifier; distilled transformers have two.
        spec: ``linear`` keeps the layer, a mapping puts hidden layers before it.
        classes: outputs.
        seed: the same seed gives the same head.
        reset: draw the weights of a linear head anew, by PyTorch's own initialisation; otherwise it keeps those that
            the architecture's initialisation gave it.

    Raises:
        UsageError: a spec that is none.
    """
    _check_spec(spec)
    with seeded(seed):
        for name in names:
            old = module.get_submodule(name)
            if not isinstance(old, (nn.Linear, nn.Conv2d)):
                raise UsageError(
                    f"model.backbone: its classifier {name} is a {type(old).__name__}, which cannot be replaced",
                    "choose an architecture that ends in a linear layer",
                )
            if isinstance(spec, Mapping):
                module.set_submodule(name, _hidden(old, spec, classes))
            elif reset:
                old.reset_parameters()


def _check_spec(spec: HeadSpec) -> None:
    if not isinstance(spec, Mapping):
        problems = [] if spec == "linear" else [f"model.head: {spec!r} is no head"]
    else:
        known = ("hidden", "activation", "dropout")
        problems = [f"model.head.{key}: unknown key{did_you_mean(str(key), known)}" for key in spec if key not in known]
        hidden, dropout, activation = spec.get("hidden"), spec.get("dropout", 0), spec.get("activation", "relu")
        if not isinstance(hidden, (list, tuple)) or not all(isinstance(width, int) and width > 0 for width in hidden):
            problems.append(f"model.head.hidden: {hidden!r} is no list of widths")
        if not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
            problems.append(f"model.head.dropout: {dropout!r} is not from 0 to below 1")
        if activation not in ACTIVATIONS:
            near = did_you_mean(str(activation), ACTIVATIONS)
            problems.append(f"model.head.activation: {activation!r} unknown{near}")
    if problems:
        example = "{hidden: [128], activation: relu, dropout: 0.2}"
        raise UsageError(problems, f"write linear, or as in {example}; the activations are {', '.join(ACTIVATIONS)}")


def _hidden(old: nn.Linear | nn.Conv2d, spec: Mapping[str, Any], classes: int) -> nn.Sequential:
    """Hidden layers and the classifier, dropout before each: 1×1 convolutions where the old one is a convolution."""
    activation = ACTIVATIONS[spec.get("activation", "relu")]
    width = old.in_features if isinstance(old, nn.Linear) else old.in_channels
    layers: list[nn.Module] = []
    for hidden in spec["hidden"]:
        layers += [*_dropout(spec), _layer(old, width, hidden), activation()]
        width = hidden
    return nn.Sequential(*layers, *_dropout(spec), _layer(old, width, classes))


def _dropout(spec: Mapping[str, Any]) -> list[nn.Module]:
    return [nn.Dropout(spec["dropout"])] if spec.get("dropout") else []


def _layer(like: nn.Linear | nn.Conv2d, width: int, outputs: int) -> nn.Module:
    return nn.Linear(width, outputs) if isinstance(like, nn.Linear) else nn.Conv2d(width, outputs, kernel_size=1)

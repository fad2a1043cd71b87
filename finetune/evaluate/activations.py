"""The output of each layer group for one picture, caught by hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from finetune.data.batches import AnyImages
from finetune.device import Compute
from finetune.evaluate.evaluation import Evaluation, forward_of
from finetune.evaluate.loop import infer
from finetune.evaluate.metrics import predict, probabilities
from finetune.model.network import Network

MOST_PREFIX_TOKENS = 8
"""Tokens before those of the patches at most: a class token, one for distillation, registers."""


@dataclass(frozen=True)
class Activation:
    """The output of one layer group for a picture.

    Attributes:
        group: its name.
        shape: of its output in the network, without the batch: (48, 14, 14), (197, 192), (128,).
        layout: `maps`, a picture for each channel; `tokens`, rows that lie on no grid; `vector`.
        values: float32 [channels, height, width], [tokens, width] or [width], for each layout. Patch tokens that lie on
            a grid are maps; the class token and its like are then left out.
        weights: float32 [width, C, H, W] where the group is a linear layer on the pixels themselves: what each of its
            neurons looks for.
    """

    group: str
    shape: tuple[int, ...]
    layout: Literal["maps", "tokens", "vector"]
    values: np.ndarray
    weights: np.ndarray | None = None


@dataclass(frozen=True)
class Passage:
    """One picture on its way through a network.

    Attributes:
        name: of the picture.
        pixels: uint8 [H, W, C], as the network was given them.
        activations: one for each layer group, in forward order.
        classes: names, in the order of the probabilities.
        probabilities: float64 [classes].
        truth: the picture's class, where it is known.
    """

    name: str
    pixels: np.ndarray
    activations: list[Activation]
    classes: list[str]
    probabilities: np.ndarray
    truth: str | None = None


def pass_through(
    network: Network, pixels: np.ndarray, compute: Compute, *, name: str = "", truth: str | None = None
) -> Passage:
    """Run one picture through the network and keep each layer group's output; the network is left as it was.

    A group's output is that of the last of its modules, and of the activations, poolings and the like that follow it
    before the next group begins, as long as positions in the picture can be told apart.

    Args:
        network: with its classes.
        pixels: uint8 [H, W, C], as the network is given them.
        compute: where.
        name: of the picture.
        truth: its class.
    """
    batch = torch.from_numpy(pixels[None].copy())
    forward = forward_of(network, compute)
    with compute.own_threads(), _catching(network, pixels.shape) as caught:
        logits = infer(forward, [(np.array([0]), batch)])
    activations = [_activation(group, caught, pixels.shape) for group in network.groups if group in caught.outputs]
    chances = probabilities(logits, network.loss, network.temperature)[0]
    return Passage(name, pixels, activations, network.classes, chances, truth)


def example(network: Network, images: AnyImages, evaluation: Evaluation, compute: Compute) -> Passage:
    """The passage of the first picture that was recognised, or of the first one where none was.

    Args:
        network: with its classes.
        images: that were evaluated, at least one.
        evaluation: of them.
        compute: where.
    """
    right = np.flatnonzero(predict(evaluation.probabilities) == evaluation.labels)
    index = int(right[0]) if len(right) else 0
    with contextlib.closing(images.batches([np.array([index])])) as batches:
        _, pixels = next(batches)
    truth = network.classes[int(evaluation.labels[index])]
    return pass_through(network, pixels[0].numpy(), compute, name=evaluation.paths[index], truth=truth)


# --- catching --------------------------------------------------------------------------------------------------------


class _Caught:
    """Outputs that the hooks of one pass have caught."""

    def __init__(self, groups_of: dict[str, set[str]], values: int) -> None:
        self.groups_of, self.values = groups_of, values
        self.current: str | None = None
        self.first = True
        self.outputs: dict[str, torch.Tensor] = {}
        self.weights: dict[str, torch.Tensor] = {}

    def take(self, path: str, module: nn.Module, output: Any) -> None:
        """Keep the output of the module at `path` if it is the last of its group so far."""
        inside = self.groups_of.get(path, set())
        if len(inside) > 1:
            return
        group = self.current = next(iter(inside), None) or self._around(path) or self.current
        value = _first_tensor(output)
        if group is None or value is None:
            return
        if inside and self.first:
            self.first = False
            if isinstance(module, nn.Linear) and module.in_features == self.values:
                self.weights[group] = module.weight.detach().to("cpu", torch.float32, copy=True)
        if _has_positions(value) or group not in self.outputs or not _has_positions(self.outputs[group]):
            # a copy, as what comes next may write over it
            self.outputs[group] = value.detach().to("cpu", torch.float32, copy=True)

    def _around(self, path: str) -> str | None:
        """The group of the modules around one that has no tensors of its own."""
        while path := path.rpartition(".")[0]:
            if around := self.groups_of.get(path):
                return next(iter(around)) if len(around) == 1 else None
        return None


@contextlib.contextmanager
def _catching(network: Network, shape: Sequence[int]) -> Iterator[_Caught]:
    """Hooks on all modules of a network; gone at the end, whatever happens."""
    groups_of: dict[str, set[str]] = {}
    for group, names in network.groups.items():
        for name in names:
            parts = name.split(".")
            for length in range(len(parts)):
                groups_of.setdefault(".".join(parts[:length]), set()).add(group)
    caught = _Caught(groups_of, int(np.prod(shape)))

    def hook_of(path: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, inputs, output: caught.take(path, module, output)

    with contextlib.ExitStack() as hooks:
        for path, module in network.module.named_modules():
            if path:
                hooks.callback(module.register_forward_hook(hook_of(path)).remove)
        yield caught


def _first_tensor(output: Any) -> torch.Tensor | None:
    """The output of a module for one picture, or the first of several."""
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    fits = isinstance(output, torch.Tensor) and output.is_floating_point() and 2 <= output.ndim <= 4
    return output if fits and len(output) == 1 else None


def _has_positions(value: torch.Tensor) -> bool:
    """Whether it tells places of the picture apart: maps of more than a pixel, or several tokens."""
    if value.ndim == 4:
        return sorted(value.shape[1:])[1] > 1  # whichever of the three is the channels
    return value.ndim == 3 and value.shape[1] > 1


# --- in the form to be shown -----------------------------------------------------------------------------------------


def _activation(group: str, caught: _Caught, picture: Sequence[int]) -> Activation:
    value, weights = caught.outputs[group][0].numpy(), caught.weights.get(group)
    shape, sides = value.shape, (picture[0], picture[1])
    if value.size == max(shape):
        value = value.reshape(-1)
        looked_for = None
        if weights is not None and len(weights) == len(value):  # not where maxout takes several for one
            looked_for = weights.numpy().reshape(len(value), picture[2], *sides)
        return Activation(group, shape, "vector", value, looked_for)
    if value.ndim == 3:
        maps = value if channels_first(shape, sides) else value.transpose(2, 0, 1)
        return Activation(group, shape, "maps", maps)
    grid = token_grid(len(value), sides)
    if grid is None:
        return Activation(group, shape, "tokens", value)
    patches = value[len(value) - grid[0] * grid[1] :]
    return Activation(group, shape, "maps", patches.T.reshape(-1, *grid))


def channels_first(shape: tuple[int, ...], sides: tuple[int, int]) -> bool:
    """Whether maps lie as [channels, height, width] and not with the channels last, as in some transformers.

    Args:
        shape: of the maps of one picture.
        sides: height and width of the picture, whose proportions the maps keep.
    """

    def distortion(height: int, width: int) -> float:
        return abs(float(np.log(height / width * sides[1] / sides[0])))

    a, b, c = shape
    return distortion(a, b) >= distortion(b, c)


def token_grid(tokens: int, sides: tuple[int, int]) -> tuple[int, int] | None:
    """Height and width of the grid of patches: in the picture's proportions, after as few other tokens as can be."""
    for prefix in range(min(MOST_PREFIX_TOKENS, tokens - 1) + 1):
        patches = tokens - prefix
        height = round((patches * sides[0] / sides[1]) ** 0.5)
        if height and patches % height == 0 and patches > 1:
            width = patches // height
            if height * sides[1] == width * sides[0]:
                return height, width
    return None

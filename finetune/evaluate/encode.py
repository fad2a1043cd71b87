"""From an image to its vector: the output of a layer group, averaged over space or tokens.

The network is cut behind the group, as for training, and what crosses the cut is the vector: for the last group before
the head that is exactly what enters the head. The answers come out of the same pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from finetune.device import Compute
from finetune.errors import UsageError, did_you_mean
from finetune.evaluate.activations import channels_first
from finetune.model.cut import Cut, cut
from finetune.model.groups import HEAD
from finetune.model.network import Network
from finetune.speed.api import optimize_cut

Values = tuple[torch.Tensor, ...]
PIXELS = "pixels"
"""The layer of a network whose head takes the pixels themselves."""


@dataclass(frozen=True)
class Encoder:
    """A network that gives vectors and answers.

    Attributes:
        network: as its weights are now.
        layer: the group whose output the vectors are; `pixels` where nothing comes before the head.
        features: length of a vector.
        forward: from pixels, uint8 [N, H, W, C], to float32 [N, features + classes], for `infer`.
    """

    network: Network
    layer: str
    features: int
    forward: Callable[[torch.Tensor], torch.Tensor]

    def parts(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The result of `forward`, split into vectors float32 [N, features] and logits float32 [N, classes]."""
        return np.ascontiguousarray(rows[:, : self.features]), rows[:, self.features :]


def make_encoder(network: Network, compute: Compute, layer: str | None = None, *, fast: bool = False) -> Encoder:
    """The network as an encoder, in eval mode.

    Args:
        network: on any device; it is moved to that of `compute`.
        compute: where.
        layer: a layer group; None for the last before the head.
        fast: many images will come, so that making the network faster first pays; equal vectors to rounding.

    Raises:
        UsageError: no such layer group, or one that cannot be taken out of this network.
    """
    _require_group(network, layer)
    module = compute.place(network.module).eval()
    normalise, sides = network.preprocess.normalise, network.preprocess.size
    example = normalise(torch.zeros((2, *sides, network.in_chans), dtype=torch.uint8).to(compute.device))
    split = _split(network, module, layer, example, compute if fast and network.convolutional else None)

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        with compute.autocast():
            values, logits = split(normalise(pixels.to(compute.device, non_blocking=True)))
        pooled = [pool(value.float(), sides) for value in values]
        return torch.cat([*pooled, logits.float()], dim=1)

    with torch.inference_mode():
        width = forward(torch.zeros((1, *sides, network.in_chans), dtype=torch.uint8)).shape[1]
    before_head = [group for group in network.groups if group != HEAD]
    name = layer or (before_head[-1] if before_head else PIXELS)
    return Encoder(network, name, width - len(network.classes), forward)


def pool(value: torch.Tensor, sides: tuple[int, int]) -> torch.Tensor:
    """Averaged over space or tokens, [N, ...] → [N, features]; a vector stays as it is.

    Args:
        value: vectors [N, features], tokens [N, tokens, features], or maps with the channels first or last.
        sides: height and width of the pictures, which tell where the channels are.
    """
    if value.ndim == 3:
        return value.mean(dim=1)
    if value.ndim == 4:
        first = channels_first(tuple(value.shape[1:]), sides)
        return value.mean(dim=(2, 3) if first else (1, 2))
    return value.flatten(1)


def _require_group(network: Network, layer: str | None) -> None:
    if layer is not None and layer not in network.groups:
        known = list(network.groups)
        raise UsageError(
            f"layer: {layer}: no such layer group{did_you_mean(layer, known)}",
            f"the layer groups of {network.architecture} are {', '.join(known)}",
        )


Split = Callable[[torch.Tensor], tuple[Values, torch.Tensor]]


def _split(
    network: Network, module: nn.Module, layer: str | None, example: torch.Tensor, fast: Compute | None
) -> Split:
    """A function from images to the values behind the layer and the logits; optimised for `fast` if that is given."""
    if layer == HEAD:
        return lambda images: ((logits := module(images),), logits)
    order = list(network.groups)
    behind = order[order.index(layer) + 1 :] if layer else [HEAD]
    learning = {name for group in behind for name in network.groups[group]} & network.parameters.keys()
    parts = cut(module, learning, example=example)
    if not parts.no_prefix:
        return _by_cut(optimize_cut(parts, module, example, fast) if fast else parts)
    if behind != [HEAD]:
        raise UsageError(
            f"layer: {layer}: cannot be taken out of {network.architecture} ({parts.where})",
            "leave out layer: what enters the head can be taken out of every network",
        )
    return _by_hook(network, module)


def _by_cut(parts: Cut) -> Split:
    def split(images: torch.Tensor) -> tuple[Values, torch.Tensor]:
        values = parts.prefix(images)
        return values, parts.eval_suffix(*values)

    return split


def _by_hook(network: Network, module: nn.Module) -> Split:
    """The input of the head, caught by a hook: for networks that cannot be cut before it."""

    def split(images: torch.Tensor) -> tuple[Values, torch.Tensor]:
        caught: list[torch.Tensor] = []

        def take(_: nn.Module, inputs: Values) -> None:
            caught.append(inputs[0].clone())  # the head may work in place

        handles = [module.get_submodule(name).register_forward_pre_hook(take) for name in network.heads]
        try:
            logits: torch.Tensor = module(images)
        finally:
            for handle in handles:
                handle.remove()
        return tuple(caught), logits

    return split

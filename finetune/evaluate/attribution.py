"""Which parts of a picture speak for a class: Grad-CAM where the network keeps places apart, else occlusion.

Grad-CAM (Selvaraju et al. 2017) needs a layer that still tells places apart and that the answer depends on at every
place. The last such layer is found by trying: all modules' outputs are kept during one pass, and the last one in which
the class's logit has a gradient at more than a few places is taken. In a CNN that is the last feature map; in a
transformer that answers by its class token it is the last layer whose tokens still speak to each other, as behind that
only the class token counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate

from finetune.device import Compute
from finetune.evaluate.activations import channels_first, token_grid
from finetune.evaluate.evaluation import BATCH, forward_of
from finetune.evaluate.loop import infer
from finetune.evaluate.metrics import probabilities
from finetune.model.network import Network

Method = Literal["gradcam", "occlusion"]

PATCHES = 7
"""Patches along each side of a picture in occlusion; they overlap by half."""

ALIVE = 0.25
"""Share of a layer's places that must have a gradient: the class token of a transformer alone is one of many."""

PROPORTION = 0.3
"""Largest difference of proportions between maps and the picture, as a logarithm: heads of attention are no maps."""


@dataclass(frozen=True)
class Explanation:
    """Where in a picture the evidence for a class lies.

    Attributes:
        name: of the picture.
        pixels: uint8 [H, W, C], as the network was given them.
        heat: float32 [H, W], from 0 (says nothing for the class) to 1; all 0 where nothing speaks for it.
        label: the class that is explained.
        confidence: its probability.
        predicted: the most probable class.
        method: gradcam or occlusion.
        layer: dotted name of the module whose output was looked at; empty for occlusion.
    """

    name: str
    pixels: np.ndarray
    heat: np.ndarray
    label: str
    confidence: float
    predicted: str
    method: Method
    layer: str = ""


def explain_pixels(
    network: Network,
    pixels: np.ndarray,
    compute: Compute,
    *,
    label: str | None = None,
    method: Method | None = None,
    name: str = "",
) -> Explanation | None:
    """Explain which parts of a picture are evidence for a class; the network is left as it was.

    Args:
        network: with its classes.
        pixels: uint8 [H, W, C], as `prepare` gives them.
        compute: where.
        label: one of the network's classes; None for the predicted one.
        method: None for Grad-CAM where the network has a layer for it, else occlusion.
        name: of the picture.

    Returns:
        None where Grad-CAM was asked for and the network has no layer for it.
    """
    forward = forward_of(network, compute)
    with compute.own_threads():
        logits = infer(forward, [(np.array([0]), torch.from_numpy(pixels[None].copy()))])
        probabilities_of_classes = probabilities(logits, network.loss, network.temperature)[0]
        predicted = int(probabilities_of_classes.argmax())
        target = predicted if label is None else network.classes.index(label)
        explained = None if method == "occlusion" else _gradcam(network, pixels, target, compute)
        if explained is None and method == "gradcam":
            return None
        heat, layer = explained or (_occlusion(forward, network, pixels, target), "")
    return Explanation(
        name=name,
        pixels=pixels,
        heat=_scaled(heat),
        label=network.classes[target],
        confidence=float(probabilities_of_classes[target]),
        predicted=network.classes[predicted],
        method="gradcam" if layer else "occlusion",
        layer=layer,
    )


def _scaled(heat: np.ndarray) -> np.ndarray:
    """The positive part of a heat map, scaled so that its largest value is 1."""
    positive = np.maximum(np.nan_to_num(heat), 0.0)
    top = float(positive.max())
    scaled: np.ndarray = (positive / top if top > 0 else positive).astype(np.float32)
    return scaled


# --- Grad-CAM --------------------------------------------------------------------------------------------------------


def _gradcam(network: Network, pixels: np.ndarray, target: int, compute: Compute) -> tuple[np.ndarray, str] | None:
    """The heat, float32 [H, W], before it is scaled, and the layer; None where no layer serves."""
    module = compute.place(network.module).eval()
    sides = (pixels.shape[0], pixels.shape[1])
    batch = network.preprocess.normalise(torch.from_numpy(pixels[None].copy()).to(compute.device))
    # frozen layers ask for no gradient by themselves
    with torch.enable_grad(), _outputs(network, module, sides) as outputs:
        logits = module(batch.requires_grad_(True))
        outputs = _same_width_tokens(outputs)
        if not outputs:
            return None
        gradients = torch.autograd.grad(logits[0, target], [value for _, value in outputs], allow_unused=True)
    for (path, value), gradient in zip(reversed(outputs), reversed(gradients), strict=True):
        if gradient is None:
            continue
        maps, slopes = _maps(value.detach()[0], sides), _maps(gradient[0], sides)
        if maps is not None and slopes is not None and _depends_on_many_places(slopes):
            heat = (maps * slopes.mean(dim=(1, 2), keepdim=True)).sum(dim=0)
            scaled = interpolate(heat[None, None].clamp_min(0), size=sides, mode="bilinear", align_corners=False)
            return scaled[0, 0].cpu().numpy(), path
    return None


def _same_width_tokens(outputs: list[tuple[str, torch.Tensor]]) -> list[tuple[str, torch.Tensor]]:
    """Without tokens of another width than the last ones: queries and keys of attention, hidden layers of its MLP."""
    widths = [value.shape[-1] for _, value in outputs if value.ndim == 3]
    return [(path, value) for path, value in outputs if value.ndim != 3 or value.shape[-1] == widths[-1]]


def _depends_on_many_places(slopes: torch.Tensor) -> bool:
    """Whether the class depends on more than a few places, gradients [channels, height, width]."""
    by_place = slopes.abs().amax(dim=0)
    top = float(by_place.max())
    return top > 0 and float((by_place > 1e-4 * top).float().mean()) >= ALIVE


@contextlib.contextmanager
def _outputs(network: Network, module: nn.Module, sides: tuple[int, int]) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """Name and output of every module outside the head that tells places apart, in the order of the pass."""
    outputs: list[tuple[str, torch.Tensor]] = []

    def hook_of(path: str) -> Callable[[nn.Module, Any, Any], Any]:
        def keep(_: nn.Module, inputs: Any, output: Any) -> Any:
            if not (isinstance(output, torch.Tensor) and output.requires_grad and len(output) == 1):
                return None
            if _maps(output.detach()[0], sides) is None:
                return None
            outputs.append((path, output))
            return output.clone()  # what comes next may write over it, and the gradient is that of what is kept

        return keep

    with contextlib.ExitStack() as hooks:
        for path, child in module.named_modules():
            if path and not any(path == head or path.startswith(f"{head}.") for head in network.heads):
                hooks.callback(child.register_forward_hook(hook_of(path)).remove)
        yield outputs


def _maps(value: torch.Tensor, sides: tuple[int, int]) -> torch.Tensor | None:
    """One picture's output as maps [channels, height, width] of more than a few places; None where it is none."""
    if value.ndim == 3:
        maps = value if channels_first(tuple(value.shape), sides) else value.permute(2, 0, 1)
        height, width = maps.shape[1:]
        alike = min(height, width) > 1 and abs(np.log(height / width * sides[1] / sides[0])) < PROPORTION
        return maps if alike else None
    if value.ndim == 2 and (grid := token_grid(len(value), sides)):
        return value[len(value) - grid[0] * grid[1] :].T.reshape(-1, *grid)
    return None


# --- occlusion -------------------------------------------------------------------------------------------------------


def _occlusion(
    forward: Callable[[torch.Tensor], torch.Tensor], network: Network, pixels: np.ndarray, target: int
) -> np.ndarray:
    """How much the class's logit loses where a patch is covered, averaged over the patches at each pixel (Zeiler and
    Fergus 2014); float32 [H, W]. The cover has the colour that the network takes for none: the mean."""
    height, width, _ = pixels.shape
    cover = np.round(255 * np.array(network.preprocess.mean)).astype(np.uint8)
    boxes = [(top, left) for top in _starts(height) for left in _starts(width)]
    size = (_side(height), _side(width))

    def covered_batches() -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        for start in range(0, len(boxes), BATCH):
            patches = boxes[start : start + BATCH]
            batch = np.repeat(pixels[None], len(patches), axis=0)
            for picture, (top, left) in zip(batch, patches, strict=True):
                picture[top : top + size[0], left : left + size[1]] = cover
            yield np.arange(start, start + len(patches)), torch.from_numpy(batch)

    logit = infer(forward, [(np.array([0]), torch.from_numpy(pixels[None].copy()))])[0, target]
    losses = logit - infer(forward, covered_batches())[:, target]
    total, count = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    for loss, (top, left) in zip(losses.tolist(), boxes, strict=True):
        total[top : top + size[0], left : left + size[1]] += loss
        count[top : top + size[0], left : left + size[1]] += 1
    mean_loss: np.ndarray = total / np.maximum(count, 1)
    return mean_loss


def _side(length: int) -> int:
    return max(1, -(-length // PATCHES))


def _starts(length: int) -> list[int]:
    """First pixels of the patches along a side: every half patch, the last at the edge."""
    side = _side(length)
    return sorted({*range(0, length - side, max(1, side // 2)), length - side})

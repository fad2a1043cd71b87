"""Draws a picture with its heat map laid over it, and the scale."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from PIL import Image

from finetune.files import visible
from finetune.report.plots import GREY, drawing, png_bytes

if TYPE_CHECKING:
    from finetune.evaluate.attribution import Explanation

COLOURS = "inferno"
STRENGTH = 0.75
"""Opacity of the hottest place; nothing is laid over a place without heat."""

METHODS = {"gradcam": "Grad-CAM", "occlusion": "occlusion"}


def overlay(explanation: Explanation) -> np.ndarray:
    """The picture with the heat laid over it, uint8 [H, W, 3]."""
    pixels = np.broadcast_to(explanation.pixels, (*explanation.pixels.shape[:2], 3)).astype(np.float64) / 255
    heat = explanation.heat[..., None].astype(np.float64)
    colours = colormaps[COLOURS](explanation.heat)[..., :3]
    mixed = pixels * (1 - STRENGTH * heat) + colours * STRENGTH * heat
    mixed_pixels: np.ndarray = (255 * np.clip(mixed, 0, 1)).round().astype(np.uint8)
    return mixed_pixels


def overlay_jpeg(explanation: Explanation, side: int = 128) -> bytes:
    """The same as a small JPEG, for a page.

    Args:
        explanation: of a picture.
        side: longest side, in pixels.
    """
    image = Image.fromarray(overlay(explanation))
    image.thumbnail((side, side))
    memory = io.BytesIO()
    image.save(memory, "JPEG", quality=80)
    return memory.getvalue()


def heat_png(explanation: Explanation) -> bytes:
    """The picture, the picture with the heat over it, and the scale; class, confidence and method above; PNG bytes."""
    name = visible(explanation.name.rpartition("/")[2]) or "one picture"
    title = f"{visible(explanation.label)}  {100 * explanation.confidence:.1f} %"
    if explanation.label != explanation.predicted:
        title += f"   (the network says {visible(explanation.predicted)})"
    with drawing(7.6, 4.1) as figure:
        left, right = figure.subplots(1, 2)
        left.imshow(explanation.pixels.squeeze(), cmap="gray", vmin=0, vmax=255)
        left.set_title(name if len(name) <= 44 else f"…{name[-43:]}")
        right.imshow(overlay(explanation))
        right.set_title(title)
        layer = f" on {explanation.layer}" if explanation.layer else ""
        right.set_xlabel(f"{METHODS[explanation.method]}{layer}", color=GREY)
        for axes in (left, right):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        scale = figure.colorbar(
            ScalarMappable(cmap=COLOURS),
            ax=[left, right],
            fraction=0.025,
            pad=0.02,
            ticks=[0, 0.5, 1],
            label="speaks for the class",
        )
        scale.outline.set_visible(False)
        return png_bytes(figure)

"""From a picture to what a network takes, as an ONNX graph that agrees with Pillow.

ONNX has a `Resize` of its own, but it cannot resize from a box with fractional borders, knows three of Pillow's six
filters, and rounds once where Pillow rounds twice; many runtimes leave out its `antialias`. So the graph does what
Pillow's C code does (`precompute_coeffs` in src/libImaging/Resample.c, Pillow 12): each axis has a matrix of weights
[out, in], made from the picture's size in the graph itself, in double precision and rounded to 22 bits as there; a
product with it along the width, rounded to whole levels, then one along the height, rounded again. What is left of
a difference is the order of a sum in single precision: some levels in a million differ, by 1 of 255.
"""

from __future__ import annotations

import math

import numpy as np
import PIL

from finetune.data.preprocess import Preprocess
from finetune.deliver.export.graph import Graph

SUPPORT = {"box": 0.5, "bilinear": 1.0, "hamming": 1.0, "bicubic": 2.0, "lanczos": 3.0}
"""Half the width of each of Pillow's filters, in pixels of the result."""

VERTICAL_FIRST = int(PIL.__version__.split(".")[0]) >= 13
"""Since then, Pillow resizes some tall pictures along their height first; levels that are rounded in between differ."""

PRECISION = 2.0**22
"""Pillow keeps its weights as whole numbers of this share (PRECISION_BITS)."""


def picture_graph(preprocess: Preprocess) -> Graph:
    """Nodes from `image`, uint8 [height, width, 3], to `pixels`, float32 [1, C, H, W]."""
    g = Graph("picture_")
    shape = g("Shape", "image")
    height, width = (g("Gather", shape, axis) for axis in (0, 1))
    rows, columns = _boxes(g, preprocess, height, width)
    levels = _channels_first(g, preprocess)
    levels = g.cast(levels, "FLOAT")
    across, down = (_weights(g, box, preprocess.interpolation) for box in (columns, rows))
    across = g("Transpose", across, perm=[1, 0])
    outside = np.array(preprocess.margin, np.float32).reshape(-1, 1, 1)
    if VERTICAL_FIRST:
        orders = (_resized(down_first, levels, across, down, outside) for down_first in (True, False))
        levels = g.choose(_taller(g, rows, columns), *orders)
    else:
        levels = g.take(_resized(False, levels, across, down, outside))
    mean, std = (
        (np.array(values, np.float32) * np.float32(255)).reshape(-1, 1, 1)
        for values in (preprocess.mean, preprocess.std)
    )
    normal = g("Div", g("Sub", levels, mean), std)
    g("Unsqueeze", normal, np.array([0]), name="pixels")
    return g


class _Box:
    """What of one side of the picture is resized to how many pixels.

    Attributes:
        length: of the picture's side, with margins, int64.
        margin: pixels of one colour before and after the picture that the length includes, int64.
        start, span: of the box, in pixels from the margin's border, double.
        out: pixels of the result.
    """

    def __init__(self, length: str, margin: str | int, start: str, span: str, out: int) -> None:
        self.length, self.margin, self.start, self.span, self.out = length, margin, start, span, out


def _boxes(g: Graph, preprocess: Preprocess, height: str, width: str) -> tuple[_Box, _Box]:
    """The boxes of rows and columns: `Preprocess.evaluate`, in numbers of the graph."""
    sides = (g.cast(height, "DOUBLE"), g.cast(width, "DOUBLE"))
    fits = [g("Div", float(out), side) for out, side in zip(preprocess.size, sides, strict=True)]
    if preprocess.crop_mode != "squash":
        fits = [g("Min" if preprocess.crop_mode == "border" else "Max", *fits)] * 2
    scales = [g("Div", fit, preprocess.crop) for fit in fits]
    found = [
        _centred(g, preprocess, length, side, g("Div", float(out), scale), out)
        for length, side, scale, out in zip((height, width), sides, scales, preprocess.size, strict=True)
    ]
    return found[0], found[1]


def _centred(g: Graph, preprocess: Preprocess, length: str, side: str, seen: str, out: int) -> _Box:
    """The middle of a side, `seen` pixels of it."""
    margin: str | int = 0
    if preprocess.crop > 1 or preprocess.crop_mode == "border":
        missing = g("Max", g("Sub", seen, side), 0.0)
        margin = g.cast(g("Ceil", g("Div", missing, 2.0)), "INT64")
        length = g("Add", length, g("Mul", margin, 2))
        side = g.cast(length, "DOUBLE")
    low = g("Div", g("Sub", side, seen), 2.0)
    high = g("Min", g("Sub", side, low), side)
    start, end = (g.cast(border, "FLOAT") for border in (g("Max", low, 0.0), high))  # Pillow keeps boxes in single
    return _Box(length, margin, g.cast(start, "DOUBLE"), g.cast(g("Sub", end, start), "DOUBLE"), out)


def _channels_first(g: Graph, preprocess: Preprocess) -> str:
    """The levels, [C, height, width]; grey as Pillow's `convert("L")` makes it (ITU-R 601-2, in whole numbers)."""
    if preprocess.channels == 3:
        return g("Transpose", "image", perm=[2, 0, 1])
    parts = g("Mul", g.cast("image", "INT32"), np.array([19595, 38470, 7471], np.int32))
    total = g("ReduceSum", parts, np.array([2]), keepdims=0)
    return g("Unsqueeze", g("Div", g("Add", total, np.int32(2**15)), np.int32(2**16)), np.array([0]))


def _taller(g: Graph, rows: _Box, columns: _Box) -> str:
    """Whether Pillow resizes along the height first: it shrinks, and by more than twice the pixels of the width."""
    shrinks = [g("Sub", box.length, box.out) for box in (rows, columns)]
    return g("And", g("Greater", shrinks[0], 0), g("Greater", shrinks[0], g("Mul", shrinks[1], 2)))


def _resized(down_first: bool, levels: str, across: str, down: str, outside: np.ndarray) -> Graph:
    """Both passes, each rounded to whole levels, as nodes of their own.

    The weights leave the margins out, as if those were 0; with a margin of another colour, each pass works on how far
    the levels are from that colour, which is 0 in the margin.
    """
    g = Graph("down_" if down_first else "across_")
    passes = [lambda of: g("MatMul", of, across), lambda of: g("MatMul", down, of)]
    for matmul in reversed(passes) if down_first else passes:
        levels = g("Add", matmul(g("Sub", levels, outside)), outside) if outside.any() else matmul(levels)
        levels = _whole(g, levels)
    return g


def _whole(g: Graph, values: str) -> str:
    """Rounded to the levels 0 to 255, halves upwards."""
    return g("Clip", g("Floor", g("Add", values, np.float32(0.5))), np.float32(0), np.float32(255))


def _weights(g: Graph, box: _Box, interpolation: str) -> str:
    """What each pixel of a side weighs in each of the result, float32 [out, length of the picture]."""
    places = g("Range", 0.0, g.cast(box.length, "DOUBLE"), 1.0)
    share = _nearest(g, box, places) if interpolation == "nearest" else _filtered(g, box, places, interpolation)
    if box.margin != 0:  # see `_resized`
        first, end = (g("Reshape", at, np.array([1])) for at in (box.margin, g("Sub", box.length, box.margin)))
        share = g("Slice", share, first, end, np.array([1]))
    return g.cast(share, "FLOAT")


def _filtered(g: Graph, box: _Box, places: str, interpolation: str) -> str:
    """Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc`: double [out, length]."""
    scale = g("Div", box.span, float(box.out))
    centres = g("Add", box.start, g("Mul", (np.arange(box.out) + 0.5).reshape(-1, 1), scale))
    stretch = g("Max", scale, 1.0)
    reach = g("Mul", stretch, SUPPORT[interpolation])
    first, end = (g("Floor", g("Add", g(side, centres, reach), 0.5)) for side in ("Sub", "Add"))
    inside = g("And", g("GreaterOrEqual", places, first), g("Less", places, end))
    distance = g("Div", g("Add", g("Sub", places, centres), 0.5), stretch)
    raw = g("Where", inside, FILTERS[interpolation](g, distance), 0.0)
    share = g("Div", raw, g("ReduceSum", raw, np.array([1]), keepdims=1))
    return g("Div", g("Round", g("Mul", share, PRECISION)), PRECISION)


def _nearest(g: Graph, box: _Box, places: str) -> str:
    """Pillow's `ImagingScaleAffine`, which adds up its steps: double [out, length], ones and zeros."""
    step = g("Div", box.span, float(box.out))
    begin = g("Add", box.start, g("Mul", step, 0.5))
    steps = g("Concat", g("Reshape", begin, np.array([1])), g("Expand", step, np.array([box.out - 1])), axis=0)
    taken = g("Min", g("Floor", g("CumSum", steps, 0)), g("Sub", g.cast(box.length, "DOUBLE"), 1.0))
    return g.cast(g("Equal", places, g("Reshape", taken, np.array([-1, 1]))), "DOUBLE")


# --- Pillow's filters, of the distance in pixels of the result -------------------------------------------------------


def _box(g: Graph, x: str) -> str:
    inside = g("And", g("Greater", x, -0.5), g("LessOrEqual", x, 0.5))
    return g.cast(inside, "DOUBLE")


def _bilinear(g: Graph, x: str) -> str:
    return g("Max", g("Sub", 1.0, g("Abs", x)), 0.0)


def _bicubic(g: Graph, x: str) -> str:
    """Keys' cubic with a = -0.5: two polynomials, of the distances below 1 and below 2."""
    x = g("Abs", x)
    near = g("Add", g("Mul", g("Mul", g("Sub", g("Mul", x, 1.5), 2.5), x), x), 1.0)
    far = g("Mul", g("Sub", g("Mul", g("Add", g("Mul", g("Sub", x, 5.0), x), 8.0), x), 4.0), -0.5)
    return g("Where", g("Less", x, 1.0), near, g("Where", g("Less", x, 2.0), far, 0.0))


def _hamming(g: Graph, x: str) -> str:
    window = g("Add", g("Mul", g("Cos", g("Mul", x, math.pi)), 0.46), 0.54)
    return g("Where", g("Less", g("Abs", x), 1.0), g("Mul", _sinc(g, x), window), 0.0)


def _lanczos(g: Graph, x: str) -> str:
    product = g("Mul", _sinc(g, x), _sinc(g, g("Div", x, 3.0)))
    return g("Where", g("And", g("GreaterOrEqual", x, -3.0), g("Less", x, 3.0)), product, 0.0)


def _sinc(g: Graph, x: str) -> str:
    """sin(pi x) / (pi x), 1 at 0."""
    angle = g("Mul", x, math.pi)
    zero = g("Equal", angle, 0.0)
    return g("Where", zero, 1.0, g("Div", g("Sin", angle), g("Where", zero, 1.0, angle)))


FILTERS = {"box": _box, "bilinear": _bilinear, "hamming": _hamming, "bicubic": _bicubic, "lanczos": _lanczos}

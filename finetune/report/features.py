"""Draws one picture's way through a network, row by row, a layer group each."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
from PIL import Image

from finetune.files import visible
from finetune.report.dark import darken
from finetune.report.plots import BLUE, GREY, INK, RUST, SOFT, drawing, png_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from finetune.evaluate.activations import Activation, Passage

TILES = 8
"""Channels shown of each group."""
BARS_UP_TO = 160
"""Values of a vector up to which each has a bar; above, they are a strip of colours in several lines."""
NAMES_UP_TO = 12
"""Outputs up to which the bars of the head have their classes' names."""
ANSWERS = 5
"""Answers named beside the picture."""

# All in inches.
WIDTH, MARGIN, TEXT, GAP, TILE = 9.6, 0.25, 1.75, 0.07, 0.86
LABEL, BETWEEN, HEADER, FOOTER = 0.15, 0.11, 2.0, 0.42
LEFT, RIGHT = MARGIN + TEXT, TILES * TILE + (TILES - 1) * GAP

SIGNED = LinearSegmentedColormap.from_list("signed", [RUST, "#f6f5f1", BLUE])
UNSIGNED = colormaps["magma"]


def features_png(passage: Passage, most: int | None = None, *, dark: bool = False) -> bytes:
    """A row for each layer group: its most varied channels as pictures, or its values as bars; PNG bytes.

    Args:
        passage: at least one activation in it.
        most: groups shown at most, evenly spread from the first to the last; None for all of them.
        dark: light writing on the dark paper of the report's page.
    """
    shown = [_finite(activation) for activation in _spread(passage.activations, most)]
    heights = [_height(activation, passage) for activation in shown]
    total = HEADER + sum(heights) + BETWEEN * len(shown) + FOOTER
    with drawing(WIDTH, total) as figure:
        figure.set_layout_engine("none")
        canvas = figure.add_axes((0, 0, 1, 1))  # a single one, in inches: one for each tile would take longer
        canvas.set(xlim=(0, WIDTH), ylim=(0, total))
        canvas.set_axis_off()
        _header(canvas, passage, total)
        top = total - HEADER
        for activation, height in zip(shown, heights, strict=True):
            _row(canvas, activation, passage, top, height)
            top -= height + BETWEEN
        _footer(canvas, shown, len(passage.activations))
        if dark:
            darken(figure, canvas)
        return _in_few_colours(png_bytes(figure))


def shape_text(one: Activation) -> str:
    """The true shape of an activation in words."""
    if one.layout == "vector":
        return f"{one.values.size:,} values"
    if len(one.shape) == 2:
        return f"{one.shape[0]:,} tokens of {one.shape[1]:,}"
    channels, height, width = one.values.shape
    return f"{channels:,} maps of {height} × {width}"


def _spread(found: Sequence[Activation], most: int | None) -> list[Activation]:
    if most is None or len(found) <= most:
        return list(found)
    return [found[place] for place in np.linspace(0, len(found) - 1, most).round().astype(int)]


def _finite(one: Activation) -> Activation:
    """Zero where a broken network gave no number, so that the rest can be drawn."""
    return one if np.isfinite(one.values).all() else replace(one, values=np.nan_to_num(one.values, posinf=0, neginf=0))


def _in_few_colours(png: bytes) -> bytes:
    """The same picture in 256 colours, which are plenty, in half the bytes."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


# --- the parts of the figure -----------------------------------------------------------------------------------------


def _header(canvas: Axes, passage: Passage, total: float) -> None:
    """The picture itself, its name, what the network takes it for, and the sizes on the way."""
    side, y = HEADER - 0.55, total - 0.25
    height, width, _ = passage.pixels.shape
    size = (side * min(1.0, width / height), side * min(1.0, height / width))
    _image(canvas, passage.pixels.squeeze(), MARGIN, y, size, cmap="gray", vmin=0, vmax=255)
    left = MARGIN + side + 0.25
    name = visible(passage.name.rpartition("/")[2]) or "one picture"
    _text(canvas, left, y, name if len(name) <= 60 else f"…{name[-59:]}", size=13, weight="bold")
    truth = "" if passage.truth is None else f"in truth: {_short(passage.truth)} · "
    _text(canvas, left, y - 0.26, f"{truth}{_journey(passage)}", color=SOFT)
    chances = np.nan_to_num(passage.probabilities)
    for line, index in enumerate(np.argsort(-chances, kind="stable")[:ANSWERS].tolist()):
        chance, at = float(chances[index]), y - 0.56 - 0.19 * line
        known = passage.truth is None or passage.classes[index] == passage.truth
        length = max(2.0 * chance, 0.02)
        canvas.add_patch(Rectangle((left, at - 0.12), length, 0.12, color=BLUE if known else GREY, linewidth=0))
        label = f"{_short(passage.classes[index])}  {100 * chance:.1f} %"
        _text(canvas, left + length + 0.08, at + 0.02, label)


def _journey(passage: Passage) -> str:
    """The sizes on the way, '784 → 128 → 64 → 10 values', the middle left out where they are many."""
    sizes = [passage.pixels.size, *(math.prod(one.shape) for one in passage.activations)]
    steps = [f"{size:,}" for size in sizes]
    return " → ".join(steps if len(steps) <= 9 else [*steps[:5], "…", *steps[-3:]]) + " values"


def _row(canvas: Axes, one: Activation, passage: Passage, top: float, height: float) -> None:
    name = visible(one.group)  # the end of a long name tells groups apart
    name = name if len(name) <= 24 else f"…{name[-23:]}"
    _text(canvas, MARGIN, top, name, size=11 if len(name) <= 15 else 8, weight="bold")
    _text(canvas, MARGIN, top - 0.2, shape_text(one), color=INK)
    _text(canvas, MARGIN, top - 0.37, _range_text(one), color=SOFT, size=8)
    if one.layout == "maps":
        _tiles(canvas, top, _most_varied(one.values), _is_signed(one.values))
    elif one.layout == "tokens":
        _strip(canvas, top, one.values, height)
    elif one.values.size > BARS_UP_TO:
        _strip(canvas, top, _folded(one.values), height)
    else:
        _bars(canvas, top, one, passage)
        if one.weights is not None:
            _templates(canvas, top - _bars_height(one, passage) - 0.1, one, passage)


def _height(one: Activation, passage: Passage) -> float:
    if one.layout == "maps":
        return LABEL + _tall(one.values[0])
    if one.layout == "tokens":
        return TILE
    if one.values.size > BARS_UP_TO:
        return min(1.3, max(0.55, 0.12 * len(_folded(one.values))))
    templates = 0.0 if one.weights is None else 0.1 + LABEL + _tall(one.weights[0, 0])
    return _bars_height(one, passage) + templates


def _tall(values: NDArray[np.float32]) -> float:
    """The height of a tile as wide as all are."""
    height, width = values.shape
    return float(TILE * min(1.6, height / width))


def _tiles(canvas: Axes, top: float, chosen: Sequence[tuple[str, NDArray[np.float32]]], signed: bool) -> None:
    """Small pictures side by side, each on its own scale, with a label below."""
    for place, (label, values) in enumerate(chosen):
        left, tall = LEFT + place * (TILE + GAP), _tall(values)
        # up to a high quantile, as a single bright border would leave the rest pale
        most = float(np.quantile(np.abs(values), 0.99)) or float(np.abs(values).max()) or 1.0
        low, colours = (-most, SIGNED) if signed else (0.0, UNSIGNED)
        _image(canvas, values, left, top, (TILE, tall), cmap=colours, vmin=low, vmax=most)
        _text(canvas, left, top - tall - 0.03, label, color=SOFT, size=7)


def _templates(canvas: Axes, top: float, one: Activation, passage: Passage) -> None:
    """The weights of the neurons that answer most, as the picture each of them looks for."""
    assert one.weights is not None
    _text(canvas, MARGIN, top, "weights of the strongest,", color=SOFT, size=8)
    _text(canvas, MARGIN, top - 0.14, "and what they answer", color=SOFT, size=8)
    order = np.argsort(-one.values, kind="stable")[:TILES].tolist()
    names = passage.classes if _is_last(one, passage) else [str(index) for index in range(one.values.size)]
    chosen = [(f"{_short(names[i], 12)}: {one.values[i]:.2g}", one.weights[i].mean(axis=0)) for i in order]
    _tiles(canvas, top, chosen, signed=True)


def _bars(canvas: Axes, top: float, one: Activation, passage: Passage) -> None:
    """A bar for each value; for the scores of a few classes with their names."""
    count, height = one.values.size, _bars_height(one, passage)
    named = _is_last(one, passage) and len(passage.classes) <= NAMES_UP_TO
    low, high = min(0.0, float(one.values.min())), max(0.0, float(one.values.max()))
    unit = (height - (0.2 if named else 0.0)) / ((high - low) or 1.0)
    zero, step = top - high * unit, RIGHT * min(1.0, count / 8) / count  # few bars need not be broad
    at = LEFT + step * (np.arange(count) + 0.5)
    colours = [BLUE if value >= 0 else RUST for value in one.values]
    canvas.bar(at, one.values * unit, width=0.8 * step, bottom=zero, color=colours)
    canvas.plot([LEFT, LEFT + step * count], [zero, zero], color=GREY, linewidth=0.6)
    for x, name in zip(at.tolist(), passage.classes if named else (), strict=False):
        _text(canvas, x, top - height + 0.15, _short(name, max(3, int(step / 0.075))), size=8, ha="center")


def _is_last(one: Activation, passage: Passage) -> bool:
    """Whether these are the scores of the classes."""
    return one.group == passage.activations[-1].group and one.values.size == len(passage.classes)


def _bars_height(one: Activation, passage: Passage) -> float:
    return 0.85 if _is_last(one, passage) else 0.62


def _strip(canvas: Axes, top: float, values: NDArray[np.float32], height: float) -> None:
    """A matrix as one picture; gaps stay white."""
    most = float(np.nanmax(np.abs(values))) or 1.0
    low, colours = (-most, SIGNED) if _is_signed(values) else (0.0, UNSIGNED)
    _image(canvas, values, LEFT, top, (RIGHT, height), cmap=colours, vmin=low, vmax=most)


def _footer(canvas: Axes, shown: Sequence[Activation], groups: int) -> None:
    told = ["output of each layer group"]
    if any(one.layout == "maps" for one in shown):
        told.append(f"the {TILES} channels that vary most, numbered, each on its own scale")
    if any(_is_signed(one.values) for one in shown) or any(one.weights is not None for one in shown):
        told.append("blue above zero, red below")
    if len(shown) < groups:
        told.append(f"{len(shown)} of {groups} groups shown")
    _text(canvas, MARGIN, 0.3, "; ".join(told), color=SOFT, size=8)


# --- numbers ---------------------------------------------------------------------------------------------------------


def _most_varied(maps: NDArray[np.float32]) -> list[tuple[str, NDArray[np.float32]]]:
    """The channels with the largest standard deviation over the picture, with their numbers as labels."""
    order = np.argsort(-maps.std(axis=(1, 2)), kind="stable")[:TILES]
    return [(str(index), maps[index]) for index in order.tolist()]


def _is_signed(values: NDArray[np.float32]) -> bool:
    """Whether values below zero say as much as those above; a GELU's faint ones do not."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return low < 0 and -low > 0.1 * high


def _range_text(one: Activation) -> str:
    zeros = float((one.values == 0).mean())
    text = f"{one.values.min():.2g} to {one.values.max():.2g}"
    if one.layout == "maps" and len(one.shape) == 2:
        text = f"{one.values.shape[1]} × {one.values.shape[2]} patches, {text}"
    return f"{text}, {100 * zeros:.0f} % zero" if zeros >= 0.005 else text


def _folded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """A long vector in lines of equal length, the last one filled up with gaps."""
    columns = int(np.ceil(values.size / np.ceil(values.size / 128)))
    lines = -(-values.size // columns)
    filled = np.full(lines * columns, np.nan, dtype=np.float32)
    filled[: values.size] = values
    return filled.reshape(lines, columns)


# --- drawing ---------------------------------------------------------------------------------------------------------


def _image(
    canvas: Axes, values: NDArray[Any], left: float, top: float, size: tuple[float, float], **colours: Any
) -> None:
    width, height = size
    place = (left, left + width, top - height, top)
    canvas.imshow(values, extent=place, interpolation="nearest", aspect="auto", **colours)


def _text(
    canvas: Axes,
    left: float,
    top: float,
    text: str,
    *,
    color: str = INK,
    size: float = 9,
    weight: str = "normal",
    ha: str = "left",
) -> None:
    canvas.text(left, top, text, color=color, fontsize=size, weight=weight, ha=ha, va="top")


def _short(name: str, most: int = 24) -> str:
    text = visible(name)
    return text if len(text) <= most else f"{text[: most - 1]}…"

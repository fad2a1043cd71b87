"""Pictures of a result as PNG files: Figure objects drawn by Agg, no pyplot, no global state left changed."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from finetune.files import visible
from finetune.report.axes import LARGEST

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from finetune.report.charts import Bin

BLUE, RUST, GREY, INK = "#2f6690", "#b5532a", "#9aa0a6", "#25282c"
SOFT = "#686e74"
"""Of small print: darker than the grey of lines."""
COUNTS_UP_TO = 30
"""Classes up to which a cell of the confusion matrix is wide enough for its number."""
NAMES_UP_TO = 60
"""Classes up to which the names fit beside the matrix."""
CELLS_UP_TO, UNNAMED = 250, 8.0
"""Rows of a matrix that can be told apart on a page; inches of one without names, so that its scale is readable."""
FALLBACK_FONTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Noto Sans Arabic", "Arial Unicode MS")
STYLE: Any = {
    "text.usetex": False,
    "text.parse_math": False,  # a `$` in a name is a dollar
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 9,
    "legend.frameon": False,
    "figure.facecolor": "white",
}


def confusion_png(confusion: NDArray[np.int64], classes: Sequence[str]) -> bytes:
    """The confusion matrix, int64 [C, C] with rows = truth, as a heat map of row shares; PNG bytes."""
    count, each = len(classes), max(1, -(-len(classes) // CELLS_UP_TO))
    cells = _summed(confusion, each)
    shares = cells / np.maximum(cells.sum(axis=1, keepdims=True), 1)
    side = min(4.0 + 0.34 * count, 16.0) if count <= NAMES_UP_TO else UNNAMED
    with drawing(side + 1.2, side) as figure:
        axes = figure.add_subplot()
        # By the root of the share, so that a rare mistake still shows.
        whole = (-0.5, each * len(cells) - 0.5, each * len(cells) - 0.5, -0.5)
        look: Any = {"cmap": "Blues", "norm": PowerNorm(0.5, 0.0, 1.0), "interpolation": "nearest", "extent": whole}
        image = axes.imshow(shares, **look)
        axes.set_xlabel("predicted" if each == 1 else f"predicted (each cell: {each} × {each} classes, in their order)")
        axes.set_ylabel("truth")
        axes.spines[:].set_visible(False)
        _name_axes(axes, classes)
        if count <= COUNTS_UP_TO:
            for (row, column), value in np.ndenumerate(confusion):
                colour = "white" if shares[row, column] > 0.3 else INK if value else GREY
                axes.text(column, row, f"{value}", ha="center", va="center", color=colour, fontsize=8)
        bar = figure.colorbar(image, ax=axes, shrink=0.6, label="share of the class's images")
        bar.outline.set_visible(False)
        return png_bytes(figure)


def _summed(confusion: NDArray[np.int64], each: int) -> NDArray[np.int64]:
    """The matrix with so many neighbouring classes added up in each row and column."""
    starts = np.arange(0, len(confusion), each)
    summed: NDArray[np.int64] = np.add.reduceat(np.add.reduceat(confusion, starts, axis=0), starts, axis=1)
    return summed


def curves_png(history: Sequence[Mapping[str, Any]], phases: Sequence[int] = ()) -> bytes:
    """Loss and scores by epoch, from the rows of `history.csv`; `phases` are the epochs at which layers thaw. PNG."""
    epochs = [row["epoch"] for row in history]
    panels = {
        "loss": {"train_loss": ("training", GREY), "val_loss": ("validation", BLUE)},
        "validation score": {"val_accuracy": ("accuracy", RUST), "val_macro_f1": ("macro F1", BLUE)},
    }
    with drawing(9.0, 3.4) as figure:
        for place, (title, lines) in enumerate(panels.items(), 1):
            axes = figure.add_subplot(1, 2, place)
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            for key, (label, colour) in lines.items():
                values = [_drawable(row.get(key)) for row in history]
                axes.plot(epochs, values, color=colour, label=label, linewidth=1.6, marker="o", markersize=3)
            for start in phases:
                axes.axvline(start - 0.5, color=GREY, linestyle=(0, (2, 3)), linewidth=1)
            axes.legend()
        return png_bytes(figure)


def calibration_png(bins: Sequence[Bin], ece: float | None) -> bytes:
    """Confidence against the share that is right, one dot a bin, with 95 % intervals and the counts below; PNG."""
    with drawing(4.6, 5.0) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        upper.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (2, 3)), linewidth=1)
        for one in bins:
            upper.plot([one.confidence] * 2, [one.low, one.high], color=BLUE, alpha=0.35, linewidth=3)
            upper.plot([one.confidence], [one.accuracy], color=BLUE, marker="o", markersize=5)
        upper.set_xlim(0, 1)
        upper.set_ylim(0, 1.02)
        upper.set_ylabel("share that is right")
        upper.set_title("calibration" if ece is None else f"calibration: expected error {ece:.3f}")
        lower.bar([one.middle for one in bins], [one.count for one in bins], width=0.055, color=GREY)
        lower.set_ylabel("images")
        lower.set_xlabel("confidence")
        return png_bytes(figure)


def _drawable(value: Any) -> float:
    """A number that matplotlib can place, or NaN for a gap."""
    number = np.nan if value in (None, "") else float(value)
    return max(-LARGEST, min(LARGEST, number)) if math.isfinite(number) else math.nan


def _name_axes(axes: Axes, classes: Sequence[str]) -> None:
    """Class names beside the matrix, never read as formulae (`$`), cut where they are long."""
    if len(classes) > NAMES_UP_TO:
        return
    names = [text if len(text) <= 24 else text[:23] + "…" for text in map(visible, classes)]
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 6 else 30)
    axes.set_yticks(range(len(names)), names)
    if len(names) <= 6:
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches in our style, whatever the user's matplotlibrc says."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    fonts = ["DejaVu Sans", *(name for name in FALLBACK_FONTS if name in installed)]
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE, **{"font.family": fonts})
        warnings.filterwarnings("ignore", message=".*[Gg]lyph")  # a name the fonts lack is drawn as boxes
        yield Figure(figsize=(width, height), layout="constrained")


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()

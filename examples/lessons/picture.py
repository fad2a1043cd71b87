"""What the lessons share: the option --draw, and pictures in the style of the project's reports."""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from finetune.files import write_atomic
from finetune.report.plots import BLUE, GREY, INK, RUST, STYLE

__all__ = ["BLUE", "GREY", "INK", "PALE_BLUE", "PALE_RUST", "PAPER", "RUST", "bare", "drawing", "start"]

PALE_BLUE, PALE_RUST, PAPER = "#d3e0ea", "#f3ddd1", "#f1f1ee"


def start(about: str | None) -> Path | None:
    """Begin a lesson: the file that --draw names, or None. `about` is its docstring; --help shows the first line."""
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("--draw", metavar="FILE", type=Path, help="draw the lesson's picture into this PNG file")
    file: Path | None = parser.parse_args().draw
    torch.set_num_threads(1)  # matrices this small are done before a second thread has woken up
    return file


@contextmanager
def drawing(file: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of `width` by `height` inches, written to `file` when the block ends."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE | {"text.parse_math": True})  # powers of ten on logarithmic axes
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
        small = io.BytesIO()
        with Image.open(buffer) as image:  # 256 colours are plenty, and a third of the bytes
            image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
        write_atomic(file, small.getvalue())


def bare(axes: Axes) -> None:
    """Take away frame and ticks, for a drawing that is no plot."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)

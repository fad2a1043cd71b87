"""A drawing for a dark page: paper, writing and bars in the page's dark colours; pictures in it stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.colors import to_hex

from finetune.report.plots import BLUE, GREY, INK, RUST, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER = "#15181b"
ON_DARK = {INK: "#e6e4de", SOFT: "#a9aeb2", GREY: "#7b8288", BLUE: "#5b93bd", RUST: "#d0784a"}
"""What writing, lines and bars become, as in `page.css`."""


def darken(figure: Figure, canvas: Axes) -> None:
    """Turn a figure with a single canvas, drawn in the colours of `plots`, to those of a dark page."""
    figure.set_facecolor(PAPER)
    for text in canvas.texts:
        text.set_color(ON_DARK[str(text.get_color())])
    for line in canvas.lines:
        line.set_color(ON_DARK[str(line.get_color())])
    for patch in canvas.patches:
        patch.set_facecolor(ON_DARK[to_hex(patch.get_facecolor())])

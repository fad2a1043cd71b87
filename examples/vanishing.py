"""Where the gradient goes: its norm in each layer, from the `history.csv` of two runs.

    finetune run recipes/vanishing-sigmoid.yaml --out runs/sigmoid
    finetune run recipes/vanishing-relu.yaml --out runs/relu
    python examples/vanishing.py runs/sigmoid runs/relu --draw docs/pictures/vanishing-recipes.png

It prints, for each run, the first and the last layer's norm in the last epoch, and the accuracy on the test images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from finetune.files import read_json, write_atomic
from finetune.report.plots import BLUE, RUST, drawing, png_bytes

COLUMN = "grad:"
COLOURS = (RUST, BLUE)
POWER = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def gradient_norms(run: Path) -> pd.DataFrame:
    """One row an epoch, one column a layer group, in forward order."""
    history = pd.read_csv(run / "history.csv", index_col="epoch")
    columns = [name for name in history.columns if name.startswith(COLUMN)]
    return history[columns].rename(columns=lambda name: name.removeprefix(COLUMN))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs=2, metavar="RUN", type=Path, help="two run folders")
    parser.add_argument("--draw", metavar="FILE", type=Path, help="draw the picture into this PNG file")
    given = parser.parse_args()
    norms, titles = [], []
    for run in given.runs:
        record = read_json(run / "run.json")
        found, accuracy = gradient_norms(run), record["metrics"]["accuracy"]
        first, last = found.columns[0], found.columns[-1]
        name = record["recipe"]["name"]
        ends = f"{first} {found[first].iloc[-1]:.1e}  {last} {found[last].iloc[-1]:.1e}"
        print(f"{name:20} {ends}  test accuracy {accuracy:.3f}")
        norms.append(found)
        titles.append(f"{name}: accuracy {accuracy:.3f}")
    if given.draw:
        write_atomic(given.draw, picture(norms, titles))


def picture(norms: list[pd.DataFrame], titles: list[str]) -> bytes:
    """The two runs side by side on one scale; PNG bytes."""
    values = np.concatenate([table.to_numpy().ravel() for table in norms])
    values = values[values > 0]
    with drawing(8.6, 3.4) as figure:
        pair = figure.subplots(1, 2, sharey=True)
        for axes, table, title, colour in zip(pair, norms, titles, COLOURS, strict=True):
            draw(axes, table, colour)
            axes.set_title(title)
        pair[0].set_ylim(values.min() / 3, values.max() * 3)
        pair[0].set_ylabel("norm of the gradient")
        return png_bytes(figure)


def draw(axes: Axes, table: pd.DataFrame, colour: str) -> None:
    """A line for each epoch, the last one darkest."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: "10" + f"{np.log10(value):.0f}".translate(POWER)))
    axes.grid(axis="y", color="#e4e2dc", linewidth=0.8)
    axes.set_axisbelow(True)
    places = range(len(table.columns))
    for number, (epoch, row) in enumerate(table.iterrows(), 1):
        shade = 0.25 + 0.75 * number / len(table)
        axes.plot(places, row, "o-", color=colour, alpha=shade, markersize=3.5, linewidth=1.6, label=f"epoch {epoch}")
    axes.set_xticks(places, table.columns, rotation=45)
    axes.legend(loc="lower right")


if __name__ == "__main__":
    main()

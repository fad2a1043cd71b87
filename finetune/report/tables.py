"""Tables for the terminal: plain text, aligned, with whatever the class names hold made visible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size

from finetune.files import visible
from finetune.report.cautions import evaluated_on

if TYPE_CHECKING:
    from finetune.evaluate.metrics import Metrics

TOO_FEW = 20
"""Support below which a class's rates say little: at n = 20 a Wilson interval still spans up to 0.4."""

NAME_WIDTH = 28
"""Columns of the terminal that a name may take before it is cut."""


def worst_first(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of `per_class.csv` by rising F1; classes without a single image, of which nothing is known, last."""
    return sorted(rows, key=lambda row: (not row["support"], row["f1"] is None, row["f1"] or 0.0, row["support"]))


def per_class_text(metrics: Metrics, limit: int | None = 50, *, split: str = "", cautions: Sequence[str] = ()) -> str:
    """The table printed at the end of a run: worst class first, every rate with its 95 % interval.

    Args:
        metrics: as `evaluate.metrics.compute_metrics` returns them.
        limit: how many classes are listed at most (the worst); None lists all.
        split: what was evaluated; named beside the figures.
        cautions: what qualifies them, printed below them.

    Returns:
        Lines without a final newline; those classes with fewer than `TOO_FEW` images carry a star and a note says why.
    """
    summary = metrics.as_dict("")
    rows = worst_first(summary["per_class"])
    shown = rows[:limit]
    lines = table_text(
        ["class", "support", "f1", "precision", "recall"],
        [[row["class"], _support(row), *(_rate(row, name) for name in ("f1", "precision", "recall"))] for row in shown],
    )
    if len(shown) < len(rows):
        lines.append(f"... and {len(rows) - len(shown)} classes that do better: see per_class.csv")
    if any(row["support"] < TOO_FEW for row in shown):
        lines.append(f"* fewer than {TOO_FEW} images: too few to trust the scores of this class")
    evaluated = sum(row["support"] > 0 for row in rows)
    over = "" if evaluated == len(rows) else f" (over the {evaluated} of {len(rows)} classes that have images)"
    low, high = (number(bound, 4) for bound in summary["accuracy_ci95"] or (None, None))
    images = f"{summary['n']:,} {evaluated_on(split) if split else 'images'}"
    accuracy = f"accuracy {number(summary['accuracy'], 4)} (95 % interval {low}-{high}) on {visible(images)}"
    if rows and summary["n"]:
        largest = max(summary["per_class"], key=lambda row: int(row["support"]))["class"]
        accuracy += f"; always '{visible(largest)}': {number(summary['base_rate'], 4)}"
    low, high = (number(bound) for bound in summary["macro_f1_ci95"] or (None, None))
    macro = f"macro F1 {number(summary['macro_f1'])} (95 % interval {low}-{high}){over}"
    return "\n".join([*lines, "", accuracy, macro, *(f"caution: {visible(line)}" for line in cautions)])


def plan_text(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The freeze plan (columns and rows of `plan.csv`) as an aligned table, without a final newline."""
    return "\n".join(table_text(columns, [[_plan_cell(value) for value in row] for row in rows]))


def table_text(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Heading, rule and rows, one string each; the first column to the left, all others to the right."""
    cells = [[_fit(visible(text)) for text in row] for row in [columns, *rows]]
    widths = [max(cell_len(row[i]) for row in cells) for i in range(len(columns))]
    lines = ["  ".join(_pad(text, widths[i], i > 0) for i, text in enumerate(row)).rstrip() for row in cells]
    return [lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]]


def number(value: float | None, digits: int = 3) -> str:
    """A rate with fixed decimals; a dash where there is none."""
    return "-" if value is None or value != value else f"{value:.{digits}f}"


def _rate(row: Mapping[str, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    interval = "" if low is None or low != low else f" {low:.2f}-{high:.2f}"
    return number(row[name]) + interval


def _support(row: Mapping[str, Any]) -> str:
    return f"{'* ' if row['support'] < TOO_FEW else ''}{row['support']:,}"


def _plan_cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _fit(text: str) -> str:
    return text if cell_len(text) <= NAME_WIDTH else set_cell_size(text, NAME_WIDTH - 3) + "..."


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - cell_len(text))
    return space + text if right else text + space

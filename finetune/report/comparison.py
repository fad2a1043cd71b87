"""A comparison in words and as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.files import visible
from finetune.report.cautions import evaluated_on
from finetune.report.tables import number, table_text


def sentence(pair: Mapping[str, Any]) -> str:
    """The outcome of a comparison of two, in one plain sentence.

    Args:
        pair: as `deliver.compare.compare` gives it.
    """
    change, (low, high) = pair["difference"]["accuracy"], pair["difference"]["accuracy_ci95"]
    p = pair["mcnemar"].get("p_holm", pair["mcnemar"]["p"])
    points = f"{abs(change) * 100:.1f} points"
    interval = f"95 % interval {low * 100:+.1f} to {high * 100:+.1f} for second minus first"
    better = "second" if change > 0 else "first"
    chance = f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"
    images = f"the same {pair['n']:,} images"
    if pair["verdict"] != "no difference":
        return (
            f"The {better} is better: {points} more accurate on {images} ({interval}; {chance}){_needed(pair, True)}."
        )
    if change == 0:
        return f"No difference: both are right equally often on {images} ({interval}){_needed(pair, False)}."
    return (
        f"No difference that counts: the {better} is {points} more accurate on {images} ({interval}), which may be "
        f"chance ({chance}){_needed(pair, False)}."
    )


def _needed(pair: Mapping[str, Any], seen: bool) -> str:
    needed = pair["images_needed"]
    if needed is None:
        return ""
    enough = "are enough" if seen else "would be needed"
    return f"; about {_rounded(needed):,} test images {enough} to see a difference of this size"


def _rounded(count: int) -> int:
    """Two digits: the estimate knows no more."""
    return count if count < 100 else int(float(f"{count:.1e}"))


def comparison_text(found: Mapping[str, Any]) -> str:
    """A comparison of two or more as text for the terminal."""
    parts = [_sides(found)]
    for pair in found.get("pairs", [found]):
        names = f"{visible(pair['runs'][0]['run'])} and {visible(pair['runs'][1]['run'])}: " if "pairs" in found else ""
        parts.append(names + visible(pair["sentence"]))
        counts = pair["mcnemar"]
        parts[-1] += (
            f"\n{counts['only_first']:,} images only the first gets right, {counts['only_second']:,} only the second"
        )
        clear = [row for row in pair["per_class"] if row["p_holm"] < 0.05]
        parts += ["\n".join(_classes(clear))] if clear else []
    return "\n\n".join(parts)


def seeds_text(found: Mapping[str, Any]) -> str:
    """Several seeds of a recipe as text for the terminal."""
    rows = []
    for key, name in (("accuracy", "accuracy"), ("macro_f1", "macro F1")):
        summary = found[key]
        low, high = summary["ci95"]
        ends = f"{number(summary['lowest'], 4)}-{number(summary['highest'], 4)}"
        interval = f"{number(low, 4)}-{number(high, 4)}"
        rows.append([name, number(summary["mean"], 4), number(summary["sd"], 4), ends, interval])
    heads = ["", "mean", "spread (sd)", "lowest-highest", "95 % interval"]
    lines = table_text(heads, rows)
    about = f"{len(found['runs'])} seeds on the same {found['n']:,} {evaluated_on(found['split'] or '')}"
    return "\n".join([*map(visible, found["runs"]), "", *lines, "", f"{about}; the interval counts seeds and images"])


def _sides(found: Mapping[str, Any]) -> str:
    heads = ["", "run", "seeds", "accuracy", "macro F1", "ECE", "train s", "MB"]
    names = ["first", "second"] if "pairs" not in found else [str(place + 1) for place in range(len(found["runs"]))]
    rows = []
    for name, run in zip(names, found["runs"], strict=True):
        size = None if run["model_bytes"] is None else run["model_bytes"] / 1e6
        figures = [number(run["accuracy"], 4), number(run["macro_f1"], 4), number(run["ece"])]
        rows.append([name, run["run"], str(run["seeds"]), *figures, number(run["train_seconds"], 1), number(size, 1)])
    return "\n".join(table_text(heads, rows))


def _classes(rows: list[Mapping[str, Any]]) -> list[str]:
    """The classes whose recall differs by more than chance."""
    heads = ["class", "images", "recall first", "second", "p (Holm)"]
    cells = [
        [row["class"], f"{row['support']:,}", number(row["first"]), number(row["second"]), f"{row['p_holm']:.2g}"]
        for row in rows
    ]
    return table_text(heads, cells)

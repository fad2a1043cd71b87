"""The page of a comparison: `compare.html`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finetune.report.html import render_page

SHOWN = 24
"""Flipped images shown for each direction of a pair."""


def compare_html(found: Mapping[str, Any], picture: Callable[[str], str]) -> str:
    """The page of a comparison as HTML text.

    Args:
        found: as `deliver.compare.compare` gives it, of two runs or of more.
        picture: path → `data:` address of its thumbnail; empty where there is none to be had.
    """
    pairs: Sequence[Mapping[str, Any]] = found.get("pairs", [found])
    names = ["first", "second"] if "pairs" not in found else [f"{place + 1}" for place in range(len(found["runs"]))]
    return render_page("compare.html.j2", found=found, names=names, pairs=[_shown(pair, picture) for pair in pairs])


def _shown(pair: Mapping[str, Any], picture: Callable[[str], str]) -> dict[str, Any]:
    """A pair with the pictures of its first flips, and how far its bars reach."""
    ends = [abs(end) for key in ("accuracy_ci95", "macro_f1_ci95") for end in pair["difference"][key]]
    sheets = {
        side: [{**one, "picture": picture(one["path"])} for one in rows[:SHOWN]]
        for side, rows in pair["flipped"].items()
    }
    return {**pair, "shown": sheets, "reach": max([*ends, 0.05])}

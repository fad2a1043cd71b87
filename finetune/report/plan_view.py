"""The freeze plan and the images' counts, as the page's tables want them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def plan_rows(plan: tuple[Sequence[str], Sequence[Sequence[object]]]) -> dict[str, Any]:
    """Rows of the plan with the share of the parameters that ever learns."""
    columns, rows = plan
    sizes = [int(str(row[1])) for row in rows]
    learning = sum(size for size, row in zip(sizes, rows, strict=True) if not all(is_frozen(cell) for cell in row[2:]))
    shown = [
        {"group": row[0], "parameters": size, "cells": [{"text": cell, "frozen": is_frozen(cell)} for cell in row[2:]]}
        for size, row in zip(sizes, rows, strict=True)
    ]
    return {"phases": columns[2:], "rows": shown, "total": sum(sizes), "learning": learning}


def is_frozen(cell: object) -> bool:
    """Whether a cell of `plan.csv` says that nothing learns."""
    return str(cell) == "frozen"


def data_rows(data: Mapping[str, Any]) -> dict[str, Any]:
    """Counts as a table: one row a class, one column a split, with sums."""
    counts: Mapping[str, Mapping[str, int]] = data.get("counts") or {}
    splits = [name for name in ("train", "val", "test") if name in counts]
    splits += [name for name in counts if name not in splits]
    classes = list(dict.fromkeys(name for split in splits for name in counts[split]))
    rows = [{"class": name, "counts": [counts[split].get(name, 0) for split in splits]} for name in classes]
    largest = max((sum(counts[split].get(name, 0) for split in splits) for name in classes), default=1)
    sums = [sum(counts[split].values()) for split in splits]
    bad = [tuple(pair) for pair in data.get("bad") or ()]
    listed = {"folder": data.get("folder") or "", "notes": list(data.get("notes") or ()), "bad": bad}
    return {**listed, "splits": splits, "rows": rows, "sums": sums, "largest": largest}

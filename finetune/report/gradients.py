"""The page's curves of the gradient: one small chart for each layer group, all on the same logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from finetune.report.axes import Scale, epoch_ticks
from finetune.train.gradients import COLUMN

MOST = 24
"""Groups drawn at most, evenly spread from the first to the last."""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 210.0, 92.0, 34.0, 204.0, 6.0, 74.0

Series = dict[str, list[tuple[int, float]]]
"""Layer group → (epoch from 1, mean norm of its gradient), for the epochs in which it learned."""


def series(history: Sequence[Mapping[str, Any]]) -> Series:
    """The norms in the rows of `history.csv`, in forward order, without groups that never learned."""
    by_group: Series = {}
    for row in history:
        for name, value in row.items():
            if name.startswith(COLUMN) and value not in (None, "") and math.isfinite(float(value)):
                by_group.setdefault(name.removeprefix(COLUMN), []).append((int(row["epoch"]) + 1, float(value)))
    order = [name.removeprefix(COLUMN) for row in history[:1] for name in row]
    return {group: by_group[group] for group in sorted(by_group, key=lambda group: order.index(group))}


def charts(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each layer group that learned: its name and its curve; empty where nothing was measured."""
    found = series(history)
    norms = [norm for points in found.values() for _, norm in points if norm > 0]
    if not norms:
        return []
    last = max(epoch for points in found.values() for epoch, _ in points)
    low, high = math.floor(math.log10(min(norms))), math.ceil(math.log10(max(norms)))
    up = Scale(low, max(high, low + 1), BOTTOM, TOP)
    across = Scale(0.65, last + 0.35, LEFT, RIGHT)
    groups = list(found)
    if len(groups) > MOST:
        groups = [groups[round(place * (len(groups) - 1) / (MOST - 1))] for place in range(MOST)]
    return [{"group": group, "picture": _chart(group, found[group], across, up)} for group in groups]


def comparison(history: Sequence[Mapping[str, Any]]) -> str:
    """How the gradient of the first group that learns compares with that of the last, in the last epoch; or nothing."""
    found = {group: points[-1] for group, points in series(history).items()}
    final = max((epoch for epoch, _ in found.values()), default=-1)
    learning = [(group, norm) for group, (epoch, norm) in found.items() if epoch == final]
    if len(learning) < 2 or learning[-1][1] == 0:
        return ""
    (first, small), (last, large) = learning[0], learning[-1]
    ratio = small / large
    share = (
        f"{ratio:.2g} times"
        if ratio >= 0.01
        else f"1/{float(f'{1 / ratio:.1e}'):,.0f} of"
        if ratio > 1e-15
        else "none of"
    )
    return f"In the last epoch, that of {first} was {share} that of {last}."


def _chart(group: str, points: Sequence[tuple[int, float]], across: Scale, up: Scale) -> Markup:
    step = max(1, math.ceil((up.high - up.low) / 3))
    parts = [_rule(up(power), power) for power in range(math.ceil(up.high), math.floor(up.low) - 1, -step)]
    last = int(across.high)
    for epoch in {1, last} if last > 9 else epoch_ticks(last, 1):
        form = '<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>'
        parts.append(Markup(form).format(across(epoch), BOTTOM + 15, epoch))
    places = [(across(epoch), up(math.log10(norm))) for epoch, norm in points if norm > 0]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places) if places else ""
    parts.append(Markup('<path class="curve a" d="{}"/>').format(path))
    if len(places) <= 30:
        dot = Markup('<circle class="dot a" cx="{:.1f}" cy="{:.1f}" r="2"/>')
        parts += [dot.format(x, y) for x, y in places]
    head = '<svg role="img" aria-label="{}" viewBox="0 0 {:g} {:g}">{}</svg>'
    label = f"Gradient norm of {group} by epoch"
    return Markup(head).format(label, WIDTH, HEIGHT, Markup("").join(parts))


def _rule(y: float, power: int) -> Markup:
    """A line across at a power of ten, with its number."""
    line = '<line class="grid" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'
    text = '<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>'
    exponent = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return Markup(line).format(LEFT, y, RIGHT, y) + Markup(text).format(LEFT - 5, y + 4, f"10{exponent}")

"""Buses and coaches."""

from __future__ import annotations

import numpy as np

from finetune.data.samples.chance import pick, uniform
from finetune.data.samples.colours import Paint
from finetune.data.samples.motors import Span, arches, ends
from finetune.data.samples.solid import (
    Part,
    across,
    box,
    on_sides,
    pane,
    prism,
    rectangle,
    rounded,
    wheel,
)


def bus(rng: np.random.Generator, p: Paint) -> list[Part]:
    """A bus: city bus, midibus, double-decker, coach or one with a bonnet."""
    kind = pick(rng, "city", "midi", "double", "coach", "bonnet")
    length = {"midi": uniform(rng, 7.0, 8.5), "double": uniform(rng, 8.8, 11)}.get(kind, uniform(rng, 9.5, 12.5))
    height = {"double": uniform(rng, 4.1, 4.5), "coach": uniform(rng, 3.3, 3.8)}.get(kind, uniform(rng, 2.8, 3.2))
    half, clear = uniform(rng, 1.18, 1.28), uniform(rng, 0.28, 0.4)
    rear, front = -length / 2, length / 2
    bonnet = 1.3 if kind == "bonnet" else 0.0
    face = front - bonnet
    slope = uniform(rng, 0.35, 0.8) if kind == "coach" else uniform(rng, 0.0, 0.25)
    outline = [
        (rear, clear), (face, clear), (face, clear + 0.95), (face - slope, height - 0.25),
        (face - slope - 0.3, height), (rear + 0.2, height), (rear, height - 0.25),
    ]  # fmt: skip
    body = prism(outline, half, p.body)
    radius = uniform(rng, 0.45, 0.54)
    axles: tuple[float, ...] = (rear + length * uniform(rng, 0.2, 0.27), front - (2.4 if kind != "bonnet" else 0.75))
    if kind in ("coach", "double") and rng.random() < 0.4:
        axles = (axles[0], axles[0] + 1.25, axles[1])
    low = clear + (1.35 if kind == "coach" else uniform(rng, 0.75, 0.95))
    floors = (
        [(low, low + 0.85), (low + 1.75, low + 2.55)]
        if kind == "double"
        else [(low, min(height - 0.35, low + uniform(rng, 0.95, 1.25)))]
    )
    _bus_sides(rng, p, body, kind, (rear, face - slope), floors, half, clear)
    arches(body, axles, radius, half, p.dark)
    glass = (face + 0.004, clear + 0.98), (face - slope + 0.004, height - 0.3)
    body.faces.append(pane(*glass, (half - 0.12, half - 0.14), p.glass))
    if kind == "double":
        share = 0.5
        at = face - slope * share
        body.faces.append(across((at + 0.03, floors[0][1] + 0.05), (at, floors[1][0] - 0.1), (-half, half), p.body))
    board = (face - slope - 0.0, height - 0.26)
    body.faces.append(across((board[0] + 0.02, board[1] - 0.22), board, (-half * 0.6, half * 0.6), p.dark))
    body.faces.append(
        across((rear - 0.004, floors[0][1]), (rear - 0.004, floors[0][0] + 0.1), (-half * 0.75, half * 0.75), p.glass)
    )
    pieces = [body, *[w for x in axles for w in wheel(x, radius, half + 0.01, 0.3, p.tyre, p.rim, 0.56)]]
    if kind == "bonnet":
        nose = prism(
            rounded([(face, clear), (front, clear), (front, clear + 0.75), (face, clear + 1.0)], 0.12),
            half * 0.86,
            p.body,
        )
        arches(nose, axles[1:], radius, half * 0.86, p.dark)
        ends(nose, (face, front), clear + 0.5, half * 0.8, p, high=True)
        pieces.append(nose)
    else:
        ends(body, (rear, face), clear + 0.45, half, p, high=True)
    return [*pieces, *_roof_gear(rng, p, (rear, face - slope), height, half)]


def _bus_sides(
    rng: np.random.Generator, p: Paint, body: Part, kind: str, x: Span, floors: list[Span], half: float, clear: float
) -> None:
    out = half + 0.004
    if rng.random() < 0.6:
        at = uniform(rng, clear + 0.1, floors[0][0] - 0.3)
        body.faces.extend(
            on_sides(rectangle((x[0] + 0.01, x[1]), (at, at + uniform(rng, 0.12, 0.5))), out - 0.001, p.trim)
        )
    pitch = uniform(rng, 1.1, 1.9)
    gap = uniform(rng, 0.06, 0.2)
    for low, high in floors:
        edges = np.linspace(x[0] + 0.2, x[1] - 0.15, max(4, round((x[1] - x[0]) / pitch)) + 1)
        for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            body.faces.extend(on_sides(rectangle((a + gap / 2, b - gap / 2), (low, high)), out, p.glass))
    if kind == "coach":
        for a in np.arange(x[0] + 3.0, x[1] - 3.0, 1.3).tolist():
            body.faces.extend(on_sides(rectangle((a, a + 0.03), (clear + 0.1, floors[0][0] - 0.15)), out, p.dark))
        return
    door = x[1] - uniform(rng, 1.0, 1.3)
    for at in (door, door - 4.2) if x[1] - x[0] > 8.5 and rng.random() < 0.6 else (door,):
        leaf = on_sides(rectangle((at, at + 0.95), (clear + 0.08, floors[0][1])), out + 0.002, p.dark)
        body.faces.append(leaf[0])
        for a in (at + 0.06, at + 0.52):
            body.faces.append(
                on_sides(rectangle((a, a + 0.38), (clear + 0.2, floors[0][1] - 0.1)), out + 0.004, p.glass)[0]
            )


def _roof_gear(rng: np.random.Generator, p: Paint, x: Span, height: float, half: float) -> list[Part]:
    if rng.random() < 0.5:
        return []
    at = uniform(rng, x[0] + 1.0, x[1] - 3.5)
    return [
        box(
            (at, at + uniform(rng, 1.2, 2.4)),
            (height, height + uniform(rng, 0.15, 0.35)),
            (-half * 0.7, half * 0.7),
            p.trim,
        )
    ]

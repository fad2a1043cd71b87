"""Farm tractors."""

from __future__ import annotations

import numpy as np

from finetune.data.samples.chance import pick, uniform
from finetune.data.samples.colours import Paint
from finetune.data.samples.motors import Span
from finetune.data.samples.solid import (
    Part,
    across,
    box,
    line,
    moved,
    on_sides,
    pane,
    prism,
    rectangle,
    rounded,
    wheel,
)

Point = tuple[float, float]


def tractor(rng: np.random.Generator, p: Paint) -> list[Part]:
    """A farm tractor: old and open, with a roll bar, with a cab, or with a loader in front."""
    kind = pick(rng, "open", "bar", "cab", "cab", "loader")
    big, small = uniform(rng, 0.74, 0.95), uniform(rng, 0.42, 0.6)
    base = uniform(rng, 2.1, 2.6)
    rear, front = -base / 2, base / 2
    half = uniform(rng, 0.85, 1.05)
    deck, top = big * 0.95, big * uniform(rng, 1.62, 1.85)
    nose = front + uniform(rng, 0.25, 0.5)
    hood_rear = rear + base * 0.44
    drop = uniform(rng, 0.02, 0.2)
    hood = prism(
        [
            (hood_rear, deck - 0.1),
            (nose, deck - 0.15),
            (nose, top - drop - 0.08),
            (nose - 0.1, top - drop),
            (hood_rear, top),
        ],
        0.34,
        p.body,
    )
    grille = rectangle((nose - 0.55, nose - 0.1), (deck + 0.05, top - drop - 0.15))
    hood.faces.extend(on_sides(grille, 0.344, p.dark))
    hood.faces.append(across((nose + 0.004, deck), (nose + 0.004, top - drop - 0.14), (-0.26, 0.26), p.dark))
    for z in ((-0.27, -0.12), (0.12, 0.27)):
        hood.faces.append(
            across((nose + 0.008, top - drop - 0.3), (nose + 0.008, top - drop - 0.16), z, p.lamp, glows=True)
        )
    pieces = [box((rear - 0.2, nose - 0.2), (small * 0.8, deck - 0.1), (-0.24, 0.24), p.dark), hood]
    pieces.append(line([(front, small, -half * 0.8), (front, small, half * 0.8)], 0.14, p.dark))
    pieces.append(line([(rear, big, -half * 0.8), (rear, big, half * 0.8)], 0.2, p.dark))
    pieces += _tractor_seat(rng, p, kind, (rear, hood_rear), (deck, top, big), half)
    pieces += wheel(rear, big, half, uniform(rng, 0.34, 0.5), p.tyre, p.rim, 0.56)
    pieces += wheel(front, small, half * 0.93, uniform(rng, 0.2, 0.32), p.tyre, p.rim, 0.56)
    if rng.random() < 0.7:
        x = hood_rear + base * 0.2
        pieces.append(line([(x, top - 0.05, 0.2), (x, top + uniform(rng, 0.4, 0.8), 0.2)], 0.09, p.dark))
    if kind == "loader":
        pieces += _loader(rng, p, (hood_rear, nose), (small, top))
    return pieces


def _tractor_seat(
    rng: np.random.Generator, p: Paint, kind: str, x: Span, y: tuple[float, float, float], half: float
) -> list[Part]:
    rear, (deck, top, big) = x[0], y
    angle = np.linspace(0.1 * np.pi, 0.95 * np.pi, 7)
    arc = [(rear + big * 1.1 * float(np.cos(a)), big + big * 1.1 * float(np.sin(a))) for a in angle]
    wide = 0.16
    pieces = [
        moved(prism([*arc, *[(q, r - 0.07) for q, r in reversed(arc)]], wide, p.trim), z=z)
        for z in (wide - half, half - wide)
    ]
    inner = half - 2 * wide - 0.01
    if kind in ("cab", "loader"):
        return [*pieces, *_cab(rng, p, x, (deck, top), inner)]
    return [*pieces, *_open_seat(rng, p, kind == "bar", x, (deck, top))]


def _cab(rng: np.random.Generator, p: Paint, x: Span, y: Span, inner: float) -> list[Part]:
    (rear, front), (deck, top) = x, y
    roof = top + uniform(rng, 0.75, 1.0)
    low, high = (rear - 0.1, front + 0.1), (rear + 0.0, front - 0.05)
    outline = [
        (low[0], deck + 0.1),
        (low[1], deck + 0.1),
        (low[1], top),
        (high[1], roof),
        (high[0], roof),
        (low[0], top),
    ]
    cab = prism(outline, inner, p.body)
    out = inner + 0.004
    cab.faces.extend(
        on_sides(
            [
                (low[0] + 0.1, top - 0.1),
                (low[1] - 0.08, deck + 0.35),
                (low[1] - 0.08, top),
                (high[1] - 0.08, roof - 0.06),
                (high[0] + 0.08, roof - 0.06),
            ],
            out,
            p.glass,
        )
    )
    cab.faces.append(
        pane((low[1] + 0.004, top + 0.02), (high[1] + 0.004, roof - 0.04), (inner - 0.07, inner - 0.07), p.glass)
    )
    cab.faces.append(pane((high[0] - 0.004, roof - 0.05), (low[0] - 0.004, top), (inner - 0.07, inner - 0.07), p.glass))
    lid = box((high[0] - 0.12, high[1] + 0.15), (roof, roof + 0.13), (-inner - 0.06, inner + 0.06), p.trim)
    return [cab, lid]


def _open_seat(rng: np.random.Generator, p: Paint, bar: bool, x: Span, y: Span) -> list[Part]:
    (rear, front), (deck, top) = x, y
    seat_x = rear + 0.25
    pieces = []
    pieces.append(
        prism(
            rounded(
                [
                    (seat_x - 0.25, deck + 0.15),
                    (seat_x + 0.25, deck + 0.15),
                    (seat_x + 0.25, deck + 0.35),
                    (seat_x - 0.12, deck + 0.35),
                    (seat_x - 0.2, deck + 0.7),
                    (seat_x - 0.3, deck + 0.7),
                ]
            ),
            0.24,
            p.dark,
        )
    )
    pieces.append(line([(front + 0.1, top - 0.1, 0), (front - 0.12, top + 0.14, 0)], 0.05, p.dark))
    wheel_at = (front - 0.12, top + 0.14)
    ring = [
        (wheel_at[0] + 0.1 * float(np.cos(a)), wheel_at[1] + 0.14 * float(np.cos(a)), 0.2 * float(np.sin(a)))
        for a in np.linspace(0, 2 * np.pi, 10)
    ]
    pieces.append(line(ring, 0.04, p.dark))
    if bar:
        pieces.append(
            line(
                [
                    (rear - 0.05, deck, -0.4),
                    (rear - 0.05, top + 0.8, -0.4),
                    (rear - 0.05, top + 0.8, 0.4),
                    (rear - 0.05, deck, 0.4),
                ],
                0.09,
                p.trim,
            )
        )
    if rng.random() < 0.6:
        pieces += _driver(p, (seat_x, deck + 0.4), wheel_at)
    return pieces


def _driver(p: Paint, seat: Point, hands: Point) -> list[Part]:
    neck = (seat[0] + 0.02, seat[1] + 0.5)
    limbs = [
        line([(*seat, z), (seat[0] + 0.45, seat[1] + 0.02, z), (seat[0] + 0.5, seat[1] - 0.4, z)], 0.15, p.legs)
        for z in (-0.14, 0.14)
    ]
    arms = [
        line([(neck[0], neck[1] - 0.05, z), (neck[0] + 0.2, neck[1] - 0.3, z), (*hands, z * 0.8)], 0.1, p.top)
        for z in (-0.22, 0.22)
    ]
    return [
        *limbs,
        line([(*seat, 0), (*neck, 0)], 0.34, p.top),
        *arms,
        line([(neck[0] + 0.03, neck[1] + 0.2, 0)], 0.26, p.skin),
        line([(neck[0] + 0.02, neck[1] + 0.28, 0)], 0.22, p.load),
    ]


def _loader(rng: np.random.Generator, p: Paint, x: Span, y: Span) -> list[Part]:
    low = uniform(rng, 0.2, 1.6)
    tip = (x[1] + 0.9, low + 0.35)
    pieces = [
        line([(x[0] + 0.2, y[1], z), (x[1] + 0.1, max(y[1] * 0.8, low + 0.3), z), (*tip, z)], 0.14, p.trim)
        for z in (-0.45, 0.45)
    ]
    pieces.append(
        prism(
            [
                (tip[0], low),
                (tip[0] + 0.75, low),
                (tip[0] + 0.2, low + 0.15),
                (tip[0] + 0.25, low + 0.6),
                (tip[0], low + 0.65),
            ],
            0.85,
            p.metal,
        )
    )
    return pieces

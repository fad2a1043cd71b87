"""Excavators, on tracks and on wheels."""

from __future__ import annotations

import numpy as np

from finetune.data.samples.chance import uniform
from finetune.data.samples.colours import Paint
from finetune.data.samples.motors import Span
from finetune.data.samples.solid import (
    Part,
    across,
    box,
    ellipse,
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


def excavator(rng: np.random.Generator, p: Paint) -> list[Part]:
    """An excavator on tracks or wheels, from mini to large, its arm anywhere between curled up and stretched out."""
    size = uniform(rng, 0.75, 1.15)
    half = uniform(rng, 1.05, 1.3)
    wheels = rng.random() < 0.25
    deck = uniform(rng, 0.95, 1.1)
    pieces = _undercarriage(rng, p, wheels, half, deck)
    back = -uniform(rng, 1.3, 1.9)
    hull_top = deck + uniform(rng, 0.8, 1.05)
    house = rounded(
        [(back, deck + 0.1), (back, hull_top), (0.3, hull_top), (1.1, deck + 0.45), (1.3, deck + 0.1)], 0.08
    )
    hull = prism(house, half * 0.95, p.body)
    for a in np.arange(back + 0.25, back + 0.9, 0.16).tolist():
        hull.faces.extend(
            on_sides(rectangle((a, a + 0.07), (deck + 0.35, hull_top - 0.2)), half * 0.95 + 0.004, p.dark)
        )
    if rng.random() < 0.6:
        hull.faces.extend(
            on_sides(rectangle((back + 0.95, 0.2), (deck + 0.35, deck + 0.6)), half * 0.95 + 0.004, p.trim)
        )
    pieces.append(hull)
    pieces.append(
        prism(rounded(rectangle((back - 0.25, back + 0.1), (deck + 0.12, hull_top - 0.1))), half * 0.8, p.trim)
    )
    pieces += _excavator_cab(rng, p, deck, half)
    pieces += _arm(rng, p, (0.75, hull_top - 0.25), half * 0.12, size)
    return pieces


def _undercarriage(rng: np.random.Generator, p: Paint, wheels: bool, half: float, deck: float) -> list[Part]:
    middle = box((-1.0, 1.0), (0.45, deck + 0.1), (-half * 0.55, half * 0.55), p.dark)
    if wheels:
        tyres = [w for x in (-1.1, 1.2) for w in wheel(x, 0.5, half, 0.38, p.tyre, p.rim, 0.55)]
        blade = prism(rectangle((1.75, 1.9), (0.2, 0.75)), half, p.body)
        return [
            box((-1.4, 1.5), (0.4, 0.7), (-half * 0.6, half * 0.6), p.dark),
            middle,
            *tyres,
            *([blade] if rng.random() < 0.5 else []),
        ]
    long, tall, wide = uniform(rng, 1.5, 1.85), 0.8, uniform(rng, 0.22, 0.3)
    loop = rounded(
        rounded(
            [
                (0.45 - long, 0.0),
                (long - 0.45, 0.0),
                (long, 0.42),
                (long - 0.4, tall),
                (0.4 - long, tall),
                (-long, 0.42),
            ]
        )
    )
    pieces = [middle]
    for side in (-1.0, 1.0):
        track = prism(loop, wide, p.tyre, z=side * (half - wide))
        face = half + 0.004
        for x, r in [
            (-long + 0.45, 0.25),
            (long - 0.45, 0.25),
            *[(x, 0.12) for x in np.linspace(0.9 - long, long - 0.9, 4).tolist()],
        ]:
            flat = ellipse((x, 0.4 if r > 0.2 else 0.22), (r, r), 12)
            points = [tuple(q) for q in flat]
            discs = on_sides(points, face, p.metal)
            track.faces.append(discs[0] if side > 0 else discs[1])
        bar = on_sides(rectangle((0.8 - long, long - 0.8), (0.36, 0.62)), face, p.body)
        track.faces.append(bar[0] if side > 0 else bar[1])
        pieces.append(track)
    return pieces


def _excavator_cab(rng: np.random.Generator, p: Paint, deck: float, half: float) -> list[Part]:
    front, rear = uniform(rng, 1.2, 1.45), uniform(rng, -0.35, -0.1)
    roof = deck + uniform(rng, 1.7, 2.0)
    z = (-half * 0.97, -half * 0.15)
    middle, inner = (z[0] + z[1]) / 2, (z[1] - z[0]) / 2
    outline = [(rear, deck + 0.12), (front, deck + 0.12), (front, deck + 0.7), (front - 0.25, roof), (rear, roof)]
    cab = prism(outline, inner, p.body if rng.random() < 0.6 else p.trim)
    out = inner + 0.004
    window = [
        (rear + 0.12, deck + 0.75),
        (front - 0.55, deck + 0.35),
        (front - 0.1, deck + 0.7),
        (front - 0.33, roof - 0.1),
        (rear + 0.12, roof - 0.1),
    ]
    cab.faces.extend(on_sides(window, out, p.glass))
    cab.faces.extend(
        on_sides(rectangle((front - 0.78, front - 0.70), (deck + 0.3, roof)), out + 0.002, cab.faces[0].colour)
    )
    cab.faces.append(
        pane((front + 0.004, deck + 0.72), (front - 0.246, roof - 0.06), (inner - 0.06, inner - 0.06), p.glass)
    )
    cab.faces.append(
        across((rear - 0.004, roof - 0.1), (rear - 0.004, deck + 0.9), (0.08 - inner, inner - 0.08), p.glass)
    )
    return [moved(cab, z=middle)]


def _arm(rng: np.random.Generator, p: Paint, foot: Point, z: float, size: float) -> list[Part]:
    lift, bend = uniform(rng, 0.5, 1.05), uniform(rng, 0.5, 1.0)
    reach, stick, thick = 2.9 * size, 1.9 * size, 0.2
    knee = (foot[0] + reach * 0.45 * float(np.cos(lift + 0.35)), foot[1] + reach * 0.5 * float(np.sin(lift + 0.35)))
    elbow = (
        knee[0] + reach * 0.5 * float(np.cos(lift - bend * 0.7)),
        knee[1] + reach * 0.5 * float(np.sin(lift - bend * 0.7)),
    )
    down = uniform(rng, -2.2, -1.05)
    wrist = (elbow[0] + stick * float(np.cos(down)), max(0.5, elbow[1] + stick * float(np.sin(down))))
    colour = p.body if rng.random() < 0.7 else p.trim
    pieces = [_beam(foot, knee, (0.2, 0.3), thick, colour, z), _beam(knee, elbow, (0.3, 0.17), thick, colour, z)]
    heel = (elbow[0] - 0.25 * float(np.cos(down)), elbow[1] - 0.25 * float(np.sin(down)))
    pieces.append(_beam(heel, wrist, (0.24, 0.12), thick * 0.8, colour, z))
    middle = ((foot[0] + knee[0]) / 2 + 0.45, (foot[1] + knee[1]) / 2 - 0.25)
    pieces.append(line([(foot[0] + 0.35, foot[1] - 0.25, z), (*middle, z)], 0.11, p.metal))
    pieces.append(line([(knee[0] + 0.15, knee[1] + 0.25, z), (*heel, z)], 0.1, p.metal))
    curl = uniform(rng, -0.5, 0.9)
    shape = (
        np.array(
            [
                (-0.08, 0.1),
                (0.16, 0.06),
                (0.2, -0.12),
                (0.1, -0.62),
                (-0.28, -0.72),
                (-0.62, -0.42),
                (-0.35, -0.38),
                (-0.2, -0.15),
            ]
        )
        * size
    )
    turn = np.array([[np.cos(curl), np.sin(curl)], [-np.sin(curl), np.cos(curl)]])
    scoop = [(float(q[0]) + wrist[0], max(0.02, float(q[1]) + wrist[1])) for q in shape @ turn]
    pieces.append(prism(scoop, 0.42 * size, p.metal if rng.random() < 0.6 else p.dark, z=z))
    return pieces


def _beam(a: Point, b: Point, wide: Span, half: float, colour: tuple[float, float, float], z: float) -> Part:
    along = np.array([b[0] - a[0], b[1] - a[1]])
    normal = np.array([-along[1], along[0]]) / (float(np.linalg.norm(along)) + 1e-9)
    corners = [
        np.array(a) - normal * wide[0],
        np.array(b) - normal * wide[1],
        np.array(b) + normal * wide[1],
        np.array(a) + normal * wide[0],
    ]
    return prism([(float(q[0]), float(q[1])) for q in corners], half, colour, z=z)

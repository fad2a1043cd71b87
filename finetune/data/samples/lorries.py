"""Lorries, rigid and articulated."""

from __future__ import annotations

import numpy as np

from finetune.data.samples.chance import pick, uniform
from finetune.data.samples.colours import Paint
from finetune.data.samples.motors import Span, arches, ends
from finetune.data.samples.solid import (
    Part,
    across,
    barrel,
    box,
    line,
    on_sides,
    pane,
    prism,
    rectangle,
    rounded,
    wheel,
)


def lorry(rng: np.random.Generator, p: Paint) -> list[Part]:
    """A lorry: box, tipper, tanker, flatbed, container, mixer or articulated, with or without a bonnet."""
    kind = pick(rng, "box", "tipper", "tanker", "flatbed", "container", "articulated", "mixer")
    half = uniform(rng, 1.08, 1.25)
    frame = uniform(rng, 0.85, 1.05)
    radius = uniform(rng, 0.42, 0.52)
    load = {"articulated": uniform(rng, 8.0, 11.0), "tipper": uniform(rng, 4.0, 5.2)}.get(kind, uniform(rng, 4.4, 6.8))
    cab_length, bonneted = uniform(rng, 1.55, 2.2), rng.random() < 0.3
    gap = 0.2 if kind != "articulated" else 0.5
    whole = load + gap + cab_length + (1.2 if bonneted else 0.0)
    rear = -whole / 2
    cab = (rear + load + gap, rear + load + gap + cab_length)
    pieces = [box((rear + 0.1, cab[0] + 0.3), (frame - 0.3, frame), (-0.45, 0.45), p.dark)]
    where = ((rear, rear + load), frame, half)
    pieces += LOADS[kind](rng, p, *where) if kind in LOADS else _hull(rng, p, *where, ribs=kind == "container")
    pieces += _lorry_cab(rng, p, cab, 1.2 if bonneted else 0.0, half * 0.97, radius)
    back = [rear + load * 0.2, rear + load * 0.2 + radius * 2.3]
    if kind == "articulated":
        back += [cab[0] - 0.6]
    elif rng.random() < 0.5:
        back = back[:1]
    steer = cab[0] + cab_length * 0.55 + (0.9 if bonneted else 0.0)
    for x in (*back, steer):
        pieces += wheel(x, radius, half * 0.97 + 0.02, 0.32, p.tyre, p.rim, 0.55)
    if rng.random() < 0.6:
        pieces.append(box((back[-1] + 1.0, steer - 1.0), (0.45, frame - 0.05), (-half * 0.9, half * 0.9), p.metal))
    return pieces


def _lorry_cab(rng: np.random.Generator, p: Paint, x: Span, bonnet: float, half: float, radius: float) -> list[Part]:
    clear, height = uniform(rng, 0.42, 0.55), uniform(rng, 2.5, 3.3)
    rear, front = x
    belt = clear + uniform(rng, 1.15, 1.35)
    slope = uniform(rng, 0.05, 0.3)
    top = min(height - 0.2, belt + 1.0)
    outline = [
        (rear, clear),
        (front, clear),
        (front, belt),
        (front - slope, top),
        (front - slope - 0.25, height),
        (rear, height),
    ]
    cab = prism(outline, half, p.body)
    out = half + 0.004
    window = [
        (front - 0.95, belt),
        (front - 0.12, belt),
        (front - slope - 0.08, top - 0.08),
        (front - 0.95, top - 0.08),
    ]
    cab.faces.extend(on_sides(window, out, p.glass))
    for at in (front - 1.05, front - 0.08):
        cab.faces.extend(on_sides(rectangle((at, at + 0.03), (clear + 0.3, top)), out, p.dark))
    cab.faces.append(
        pane((front + 0.004, belt + 0.04), (front - slope + 0.004, top - 0.03), (half - 0.12, half - 0.16), p.glass)
    )
    if rng.random() < 0.4:
        cab.faces.extend(on_sides(rectangle((rear + 0.02, front - 0.02), (belt - 0.45, belt - 0.2)), out, p.trim))
    pieces = [cab]
    if bonnet:
        nose = prism(
            [(front, clear), (front + bonnet, clear), (front + bonnet, belt - 0.25), (front, belt - 0.05)],
            half * 0.78,
            p.body,
        )
        ends(nose, (front, front + bonnet), clear + 0.5, half * 0.78, p, high=True)
        pieces.append(nose)
    else:
        ends(cab, (rear, front), clear + 0.35, half, p, high=True)
        arches(cab, (rear + (front - rear) * 0.55,), radius, half, p.dark)
    if rng.random() < 0.35:
        wing = [(rear + 0.1, height), (front - slope - 0.4, height), (rear + 0.1, height + uniform(rng, 0.3, 0.7))]
        pieces.append(prism(wing, half * 0.85, p.body))
    pieces += [
        line([(front - 0.05, belt + 0.5, z), (front + 0.12, belt + 0.45, z * 1.1)], 0.16, p.dark) for z in (-half, half)
    ]
    return pieces


def _tank(rng: np.random.Generator, p: Paint, x: Span, frame: float, half: float) -> list[Part]:
    middle = (x[0] + x[1]) / 2
    r = uniform(rng, 0.85, 1.1)
    tank = barrel((x[0] + 0.15, x[1] - 0.1), (frame + r + 0.1, 0.0), (r, half * 0.97), p.load)
    saddles = [
        box((a, a + 0.25), (frame, frame + 0.4), (-half * 0.7, half * 0.7), p.dark) for a in (x[0] + 0.6, x[1] - 0.9)
    ]
    top = box((middle - 0.5, middle + 0.5), (frame + 2 * r + 0.1, frame + 2 * r + 0.28), (-0.25, 0.25), p.metal)
    return [
        *saddles,
        tank,
        top,
        line([(x[0] + 0.5, frame + 2 * r + 0.3, 0.0), (x[1] - 0.5, frame + 2 * r + 0.3, 0.0)], 0.07, p.metal),
    ]


def _tub(rng: np.random.Generator, p: Paint, x: Span, frame: float, half: float) -> list[Part]:
    middle = (x[0] + x[1]) / 2
    tall = uniform(rng, 1.1, 1.5)
    tub = prism(
        [(x[0] - 0.1, frame + 0.05), (x[1], frame + 0.05), (x[1], frame + tall + 0.2), (x[0] + 0.25, frame + tall)],
        half,
        p.load,
    )
    for a in np.linspace(x[0] + 0.5, x[1] - 0.3, 5).tolist():
        tub.faces.extend(on_sides(rectangle((a, a + 0.1), (frame + 0.1, frame + tall)), half + 0.004, p.dark))
    heap = prism(
        [(x[0] + 0.5, frame + tall), (x[1] - 0.3, frame + tall), (middle, frame + tall + uniform(rng, 0.3, 0.7))],
        half * 0.8,
        p.trim,
    )
    return [tub, heap]


def _bed(rng: np.random.Generator, p: Paint, x: Span, frame: float, half: float) -> list[Part]:
    pieces = [
        box((x[0], x[1]), (frame, frame + 0.14), (-half, half), p.trim),
        box((x[1] - 0.1, x[1]), (frame + 0.14, frame + 1.2), (-half, half), p.dark),
    ]
    if rng.random() < 0.5:
        pieces += [
            barrel((x[0] + 0.3, x[1] - 0.3), (frame + y, z), (0.26, 0.26), p.load)
            for y, z in ((0.4, -0.6), (0.4, 0.0), (0.4, 0.6), (0.85, -0.3), (0.85, 0.3))
        ]
        return pieces
    at = x[0] + 0.3
    while at < x[1] - 1.4:
        wide = uniform(rng, 0.7, 1.4)
        pieces.append(
            box((at, at + wide), (frame + 0.14, frame + uniform(rng, 0.6, 1.5)), (-half * 0.8, half * 0.8), p.load)
        )
        at += wide + uniform(rng, 0.1, 0.5)
    return pieces


def _drum(rng: np.random.Generator, p: Paint, x: Span, frame: float, half: float) -> list[Part]:
    axis = frame + 1.35
    drum = [
        (x[0] + 0.1, axis + 0.45), (x[0] + 1.3, axis - 0.9), (x[1] - 1.2, axis - 1.1), (x[1] - 0.1, axis - 0.5),
        (x[1] - 0.1, axis + 0.2), (x[1] - 1.4, axis + 0.95), (x[0] + 0.3, axis + 1.1),
    ]  # fmt: skip
    halves = [0.4, 0.9, 1.1, 0.5, 0.5, 1.1, 0.4]
    body = prism(rounded(drum, 0.15), [0.9 * h for h in np.roll(np.repeat(halves, 2), -1).tolist()], p.load)
    for a in (x[0] + 1.2, x[1] - 1.5):
        body.faces.extend(
            on_sides(
                [(a, axis - 0.9), (a + 0.3, axis - 0.95), (a + 0.8, axis + 0.9), (a + 0.5, axis + 0.95)],
                half * 0.9,
                p.trim,
            )
        )
    return [body, line([(x[0] - 0.1, frame, 0.0), (x[0] + 0.2, axis + 0.6, 0.0)], 0.25, p.metal)]


def _hull(rng: np.random.Generator, p: Paint, x: Span, frame: float, half: float, ribs: bool) -> list[Part]:
    tall = uniform(rng, 2.0, 2.7)
    hull = box((x[0], x[1]), (frame, frame + tall), (-half, half), p.load)
    _hull_sides(rng, p, hull, ribs, x, (frame, frame + tall), half)
    return [hull]


def _hull_sides(rng: np.random.Generator, p: Paint, hull: Part, ribs: bool, x: Span, y: Span, half: float) -> None:
    out = half + 0.004
    if ribs or rng.random() < 0.3:
        for a in np.arange(x[0] + 0.25, x[1] - 0.1, 0.5).tolist():
            hull.faces.extend(
                on_sides(
                    rectangle((a, a + 0.12), (y[0] + 0.15, y[1] - 0.15)),
                    out,
                    (p.load[0] * 0.72, p.load[1] * 0.72, p.load[2] * 0.72),
                )
            )
    elif rng.random() < 0.6:
        a, b = uniform(rng, x[0] + 0.4, x[0] + 1.4), uniform(rng, x[1] - 2.0, x[1] - 0.4)
        low = uniform(rng, y[0] + 0.3, y[1] - 1.2)
        hull.faces.extend(on_sides(rectangle((a, b), (low, low + uniform(rng, 0.4, 1.0))), out, p.trim))
    hull.faces.extend(on_sides(rectangle(x, (y[0], y[0] + 0.12)), out, p.dark))
    hull.faces.append(across((x[0] - 0.004, y[1] - 0.1), (x[0] - 0.004, y[0] + 0.1), (-0.03, 0.03), p.dark))
    for z in ((-half * 0.95, -half * 0.7), (half * 0.7, half * 0.95)):
        hull.faces.append(across((x[0] - 0.004, y[0] + 0.3), (x[0] - 0.004, y[0] + 0.1), z, p.tail, glows=True))


LOADS = {"tanker": _tank, "tipper": _tub, "flatbed": _bed, "mixer": _drum}
"""What a lorry carries where it is no closed box."""

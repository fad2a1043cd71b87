"""Light vehicles with an engine and a cabin: cars and vans."""

from __future__ import annotations

import numpy as np

from finetune.data.samples.chance import pick, uniform
from finetune.data.samples.colours import Paint
from finetune.data.samples.solid import Colour, Part, across, on_sides, pane, prism, rectangle, wheel

Span = tuple[float, float]


def ends(piece: Part, x: Span, y: float, half: float, p: Paint, high: bool = False) -> None:
    """Lamps, grille, bumper and number plates on the ends of a body: x of rear and front, y of the lamps' middle."""
    rear, front = x[0] - 0.004, x[1] + 0.004
    tall = 0.11 if not high else 0.16
    for side in (1.0, -1.0):
        z: Span = (side * half * 0.56, side * half * 0.94) if side > 0 else (-half * 0.94, -half * 0.56)
        piece.faces.append(across((front, y - tall / 2), (front, y + tall / 2), z, p.lamp, glows=True))
        piece.faces.append(across((rear, y + tall * 0.8), (rear, y - tall * 0.8), (z[0], z[1]), p.tail, glows=True))
    grille = (-half * 0.5, half * 0.5)
    piece.faces.append(across((front, y - 0.09), (front, y + 0.07), grille, p.dark))
    for at, turn in ((front, 1), (rear, -1)):
        lower, upper = y - 0.34, y - 0.23
        piece.faces.append(
            across(
                (at, lower if turn > 0 else upper), (at, upper if turn > 0 else lower), (-0.26, 0.26), (232, 232, 220)
            )
        )


def arches(piece: Part, axles: tuple[float, ...], radius: float, half: float, dark: Colour) -> None:
    """Dark wheel arches on the sides of a body."""
    angle = np.linspace(0, np.pi, 9)
    for x in axles:
        outline = [
            (x + radius * 1.2 * c, radius * 0.9 + radius * 1.25 * s)
            for c, s in zip(np.cos(angle), np.sin(angle), strict=True)
        ]
        piece.faces.extend(on_sides(outline, half + 0.003, dark))


# --- cars ------------------------------------------------------------------------------------------------------------

CARS = {
    # length, height (from, to); bonnet, windscreen, rear screen, boot (shares of the length); clearance; belt (of the
    # height)
    "sedan": ((4.4, 5.0), (1.40, 1.50), 0.26, 0.13, 0.12, 0.15, 0.20, 0.62),
    "hatchback": ((3.6, 4.2), (1.45, 1.60), 0.22, 0.13, 0.08, 0.02, 0.20, 0.60),
    "estate": ((4.5, 4.9), (1.45, 1.55), 0.26, 0.13, 0.07, 0.01, 0.20, 0.62),
    "suv": ((4.2, 4.9), (1.68, 1.88), 0.24, 0.10, 0.06, 0.02, 0.30, 0.62),
    "coupe": ((4.1, 4.6), (1.22, 1.34), 0.32, 0.17, 0.22, 0.08, 0.15, 0.64),
    "mini": ((2.8, 3.4), (1.46, 1.58), 0.16, 0.14, 0.07, 0.01, 0.20, 0.58),
    "pickup": ((4.9, 5.4), (1.70, 1.85), 0.24, 0.10, 0.03, 0.32, 0.32, 0.58),
}  # fmt: skip


def car(rng: np.random.Generator, p: Paint) -> list[Part]:
    """A car: saloon, hatchback, estate, off-roader, coupé, microcar or pick-up."""
    lengths, heights, bonnet, screen, back, boot, clear, belt_share = CARS[list(CARS)[int(rng.integers(len(CARS)))]]
    length, height = uniform(rng, *lengths), uniform(rng, *heights)
    half = uniform(rng, 0.80, 0.93)
    clear *= uniform(rng, 0.85, 1.15)
    belt = height * belt_share * uniform(rng, 0.96, 1.04)
    rear, front = -length / 2, length / 2
    cowl, tail = front - length * bonnet, rear + length * boot
    nose = belt - uniform(rng, 0.10, 0.22)
    outline = [
        (rear + 0.05, clear), (front - 0.05, clear), (front, clear + 0.14), (front, nose - 0.08), (front - 0.10, nose),
        (cowl, belt), (tail, belt), (rear + 0.03, belt - 0.02), (rear, belt - 0.12), (rear, clear + 0.16),
    ]  # fmt: skip
    body = prism(outline, half, p.body)
    radius = uniform(rng, 0.29, 0.35) * (1.12 if clear > 0.27 else 1.0)
    axles = (rear + length * 0.19, front - length * 0.19)
    sill = on_sides(
        rectangle((axles[0], axles[1]), (clear, clear + 0.10)), half + 0.002, p.trim if rng.random() < 0.4 else p.dark
    )
    body.faces.extend(sill)
    arches(body, axles, radius, half, p.dark)
    ends(body, (rear, front), nose - 0.14, half, p)
    for x in (cowl - length * 0.26, cowl - length * 0.05):
        body.faces.extend(on_sides(rectangle((x, x + 0.025), (clear + 0.12, belt)), half + 0.002, p.dark))
    cabin = _cabin(rng, p, (tail, tail + length * back, cowl - length * screen, cowl), (belt, height), half)
    return [
        body,
        cabin,
        *wheel(axles[0], radius, half + 0.02, 0.2, p.tyre, p.rim),
        *wheel(axles[1], radius, half + 0.02, 0.2, p.tyre, p.rim),
    ]


def _cabin(rng: np.random.Generator, p: Paint, x: tuple[float, float, float, float], y: Span, half: float) -> Part:
    low, high = half * 0.97, half * uniform(rng, 0.74, 0.84)
    roof = p.trim if rng.random() < 0.25 else p.body
    glass = p.glass
    top = y[1] - 0.07
    outline = [
        (x[0], y[0]),
        (x[3], y[0]),
        (x[2] + 0.06, top),
        (x[2] - 0.15, y[1]),
        (x[1] + 0.15, y[1]),
        (x[1] - 0.04, top),
    ]
    halves = [low, low, high, high * 0.94, high * 0.94, high]
    cabin = prism(outline, halves, roof)
    inset = 0.07
    lower, upper = (x[0] + 0.14, y[0] + 0.02), (x[3] - 0.16, y[0] + 0.02)
    window = [lower, upper, (x[2] - 0.02, top - 0.02), (x[1] + 0.05, top - 0.02)]
    cabin.faces.extend(on_sides(window, [low + 0.004, low + 0.004, high + 0.02, high + 0.02], glass))
    pillars = (0.45,) if x[2] - x[1] < 1.3 else (0.36, 0.68)
    for share in pillars:
        a, b = x[0] + share * (x[3] - x[0]), x[1] + share * (x[2] - x[1])
        strip = [(a - 0.04, y[0]), (a + 0.04, y[0]), (b + 0.04, top), (b - 0.04, top)]
        cabin.faces.extend(on_sides(strip, [low + 0.006, low + 0.006, high + 0.022, high + 0.022], roof))
    across_front = ((x[3] - 0.03, y[0] + 0.03), (x[2] + 0.08, top - 0.02))
    cabin.faces.append(pane(*across_front, (low - inset, high - inset), glass))
    cabin.faces.append(pane((x[1] - 0.03, top - 0.03), (x[0] + 0.0, y[0] + 0.10), (high - inset, low - inset), glass))
    return cabin


# --- vans ------------------------------------------------------------------------------------------------------------


def van(rng: np.random.Generator, p: Paint) -> list[Part]:
    """A van: panel van, high roof, minibus with windows, camper or postal van."""
    kind = pick(rng, "panel", "high", "windows", "small", "classic")
    length = uniform(rng, 4.0, 4.6) if kind in ("small", "classic") else uniform(rng, 4.9, 6.2)
    height = {"high": uniform(rng, 2.5, 2.8), "small": uniform(rng, 1.85, 2.0)}.get(kind, uniform(rng, 2.05, 2.4))
    half, clear = uniform(rng, 0.88, 1.02), uniform(rng, 0.2, 0.3)
    rear, front = -length / 2, length / 2
    belt = clear + uniform(rng, 0.78, 0.92)
    bonnet = {"classic": 0.10, "small": 0.8}.get(kind, uniform(rng, 0.6, 0.9))
    rake = uniform(rng, 0.45, 0.85) if kind != "classic" else 0.35
    cowl, brow = front - bonnet, front - bonnet - rake
    eaves = min(belt + uniform(rng, 0.75, 0.85), height - 0.10)
    outline = [
        (rear, clear), (front - 0.05, clear), (front, clear + 0.15), (front - 0.03, belt - 0.22), (cowl, belt),
        (brow, eaves), (brow - 0.35, height), (rear + 0.12, height), (rear, height - 0.15),
    ]  # fmt: skip
    upper = half * uniform(rng, 0.88, 0.95)
    halves = [half, half, half, half, half * 0.99, upper, upper * 0.97, upper * 0.97, upper]
    body = prism(outline, halves, p.body)
    radius = uniform(rng, 0.31, 0.37)
    axles = (rear + length * 0.2, front - 0.85)
    _van_sides(rng, p, body, kind, (rear, cowl, brow, front), (clear, belt, eaves, height), (half, upper))
    arches(body, axles, radius, half, p.dark)
    ends(body, (rear, front - 0.01), belt - 0.36, half, p)
    tyres = [w for x in axles for w in wheel(x, radius, half + 0.02, 0.22, p.tyre, p.rim, 0.58)]
    roof = []
    if rng.random() < 0.25:
        roof.append(
            prism(rectangle((rear + 0.5, brow - 0.6), (height, height + uniform(rng, 0.08, 0.22))), half * 0.7, p.load)
        )
    return [body, *roof, *tyres]


def _van_sides(
    rng: np.random.Generator, p: Paint, body: Part, kind: str, x: tuple[float, float, float, float],
    y: tuple[float, float, float, float], half: Span,
) -> None:  # fmt: skip
    (rear, cowl, brow, _), (clear, belt, eaves, height) = x, y
    low, top = half[0] + 0.004, half[1] + 0.012
    level = min(eaves, height - 0.12)
    if kind == "classic" or rng.random() < 0.3:
        band = [(rear + 0.01, clear + 0.1), (cowl - 0.02, clear + 0.1), (cowl - 0.02, belt), (rear + 0.01, belt)]
        body.faces.extend(on_sides(band, low - 0.001, p.trim))
    door = [(brow - 0.75, belt), (cowl - 0.18, belt), (brow - 0.02, level - 0.05), (brow - 0.75, level - 0.05)]
    body.faces.extend(on_sides(door, [low, low, top, top], p.glass))
    if kind in ("windows", "classic"):
        count = int(rng.integers(1, 3))
        edges = np.linspace(brow - 0.85 - 0.95 * count, brow - 0.85, count + 1)
        for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            outline = rectangle((a, b - 0.12), (belt, level - 0.05))
            body.faces.extend(on_sides(outline, [low, low, top, top], p.glass))
    elif rng.random() < 0.5:
        middle = uniform(rng, rear + 0.9, brow - 1.3)
        sign = rectangle((middle - 0.6, middle + 0.6), (belt + 0.05, belt + uniform(rng, 0.3, 0.6)))
        body.faces.extend(on_sides(sign, low, p.load))
    for at in (brow - 0.78, brow - 0.78 - (brow - rear) * 0.36):
        body.faces.extend(on_sides(rectangle((at, at + 0.03), (clear + 0.1, level)), low + 0.002, p.dark))
    body.faces.append(
        pane((cowl - 0.03, belt + 0.03), (brow + 0.02, eaves - 0.02), (half[0] - 0.1, half[1] - 0.1), p.glass)
    )
    for z in ((0.05, half[1] - 0.15), (0.15 - half[1], -0.05)):
        if kind != "high" or rng.random() < 0.6:
            body.faces.append(across((rear - 0.004, level - 0.05), (rear - 0.004, belt + 0.05), z, p.glass))
    body.faces.append(across((rear - 0.004, height - 0.2), (rear - 0.004, clear + 0.2), (-0.02, 0.02), p.dark))

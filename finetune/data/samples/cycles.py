"""Two wheels: bicycles and motorcycles, with and without a rider."""

from __future__ import annotations

import numpy as np

from finetune.data.samples.chance import pick, uniform
from finetune.data.samples.colours import Paint
from finetune.data.samples.solid import (
    Colour,
    Face,
    Part,
    ellipse,
    line,
    moved,
    on_sides,
    part,
    prism,
    rectangle,
    rounded,
    wheel,
)

Point = tuple[float, float]


def bicycle(rng: np.random.Generator, p: Paint) -> list[Part]:
    """A bicycle: road, city or mountain, some with a rider, a basket or mudguards."""
    kind = pick(rng, "road", "city", "mountain", "small")
    radius = uniform(rng, 0.24, 0.28) if kind == "small" else uniform(rng, 0.33, 0.37)
    base = uniform(rng, 0.96, 1.1)
    thick = {"road": 0.028, "city": 0.04, "mountain": 0.058, "small": 0.045}[kind]
    rear, front = (-base / 2, radius), (base / 2, radius)
    crank = (-base * 0.1, radius * uniform(rng, 0.8, 0.95) if kind != "small" else 0.28)
    seat, head = (crank[0] - 0.19, 0.84), (base / 2 - 0.19, uniform(rng, 0.80, 0.92))
    low_head = (head[0] + 0.05, head[1] - 0.13)
    tube = uniform(rng, 0.035, 0.055)
    pieces = [*_spoked(rear, radius, thick, p), *_spoked(front, radius, thick, p)]
    rods = [(rear, seat), (rear, crank), (crank, seat), (crank, low_head), (low_head, front), (head, low_head)]
    rods.append((seat, head) if kind != "city" else ((seat[0] + 0.06, seat[1] - 0.3), low_head))
    pieces += [_rod(a, b, tube, p.body) for a, b in rods]
    saddle, bar = (seat[0] - 0.03, uniform(rng, 0.93, 1.02)), (head[0] - 0.03, head[1] + uniform(rng, 0.08, 0.2))
    pieces += [_rod(seat, saddle, 0.03, p.metal), _rod(head, bar, 0.03, p.metal)]
    pieces.append(line([(saddle[0] - 0.13, saddle[1], 0), (saddle[0] + 0.13, saddle[1] - 0.01, 0)], 0.07, p.dark))
    pieces.append(line([(*bar, -0.27), (*bar, 0.27)], 0.035, p.dark))
    grip = (bar[0] + 0.12, bar[1] - 0.1) if kind == "road" else (bar[0] - 0.1, bar[1] + 0.03)
    pieces += [line([(*bar, z), (*grip, z)], 0.04, p.dark) for z in (-0.26, 0.26)]
    pieces += [
        line(
            [(*crank, 0.08), (crank[0] + 0.1, crank[1] - 0.13, 0.1), (crank[0] + 0.16, crank[1] - 0.13, 0.1)],
            0.03,
            p.metal,
        )
    ]
    pieces += [
        line(
            [(*crank, -0.08), (crank[0] - 0.1, crank[1] + 0.13, -0.1), (crank[0] - 0.04, crank[1] + 0.13, -0.1)],
            0.03,
            p.metal,
        )
    ]
    pieces.append(_disc(crank, 0.09, 0.05, p.metal))
    if kind == "city":
        pieces += [_guard(at, radius + 0.03, p.trim) for at in (rear, front)]
        if rng.random() < 0.6:
            pieces.append(
                prism(rectangle((front[0] - 0.02, front[0] + 0.28), (bar[1] - 0.25, bar[1] - 0.02)), 0.17, p.load)
            )
        pieces.append(
            prism(rectangle((rear[0] - 0.2, rear[0] + 0.2), (radius * 2 + 0.05, radius * 2 + 0.09)), 0.07, p.dark)
        )
    if rng.random() < 0.45:
        feet = ((crank[0] + 0.1, crank[1] - 0.13), (crank[0], crank[1] + 0.13))
        pieces += rider(rng, p, saddle, grip, feet, lean=0.5 if kind == "road" else uniform(rng, 0.15, 0.35), apart=0.1)
    return pieces


def motorcycle(rng: np.random.Generator, p: Paint) -> list[Part]:
    """A motorcycle: sports, standard, cruiser, off-road or scooter, some with a rider."""
    kind = pick(rng, "sports", "standard", "cruiser", "scooter", "enduro")
    radius = uniform(rng, 0.21, 0.25) if kind == "scooter" else uniform(rng, 0.29, 0.34)
    base = {"scooter": 1.25, "cruiser": 1.65}.get(kind, 1.42) * uniform(rng, 0.95, 1.06)
    thick = 0.10 if kind == "enduro" else uniform(rng, 0.13, 0.19)
    rear, front = -base / 2, base / 2
    head = (front - {"cruiser": 0.5, "scooter": 0.25}.get(kind, 0.36), uniform(rng, 0.9, 0.98))
    share = 0.66 if kind != "enduro" else 0.78
    pieces = [w for x in (rear, front) for w in wheel(x, radius, thick / 2, thick / 2, p.tyre, p.rim, share)]
    pieces = [Part(w.faces, w.low, w.high) for w in pieces]
    pieces += [line([(front, radius, z), (*head, z)], 0.055, p.metal) for z in (-0.1, 0.1)]
    saddle, extra = _machine(rng, p, kind, (rear, front), radius, head)
    pieces += extra
    bar = (
        head[0] - (0.02 if kind == "sports" else 0.12),
        head[1] + (0.02 if kind == "sports" else uniform(rng, 0.1, 0.22)),
    )
    pieces += [line([(*head, 0), (*bar, 0)], 0.05, p.metal), line([(*bar, -0.34), (*bar, 0.34)], 0.045, p.dark)]
    pieces.append(line([(head[0] + 0.1, head[1] - 0.06, 0)], 0.2, p.metal))
    pieces.append(line([(head[0] + 0.15, head[1] - 0.06, 0)], 0.15, p.lamp))
    if kind != "sports":
        pieces += [line([(*bar, z), (bar[0] - 0.02, bar[1] + 0.16, z * 1.1)], 0.02, p.dark) for z in (-0.26, 0.26)]
        pieces += [line([(bar[0] - 0.02, bar[1] + 0.18, z * 1.1)], 0.09, p.metal) for z in (-0.26, 0.26)]
    if rng.random() < 0.45:
        step = (head[0] - 0.35, 0.3) if kind in ("cruiser", "scooter") else (rear + base * 0.42, 0.36)
        lean = 0.55 if kind == "sports" else uniform(rng, 0.05, 0.25)
        pieces += rider(
            rng,
            p,
            (saddle[0], saddle[1] + 0.02),
            (bar[0] - 0.03, bar[1]),
            (step, step),
            lean=lean,
            apart=0.22,
            helmet=True,
        )
    return pieces


def _machine(
    rng: np.random.Generator, p: Paint, kind: str, axles: Point, radius: float, head: Point
) -> tuple[Point, list[Part]]:
    rear, front = axles
    base = front - rear
    if kind == "scooter":
        return _scooter(p, axles, radius, head)
    floor_y = radius * 0.75
    seat = (rear + base * 0.3, {"cruiser": 0.68, "enduro": 0.9}.get(kind, 0.8))
    engine = rounded(rectangle((rear + base * 0.36, rear + base * 0.68), (floor_y, 0.6)))
    parts = [prism(engine, 0.17, p.metal, p.metal)]
    parts[0].faces.extend(
        on_sides([tuple(q) for q in ellipse((rear + base * 0.47, floor_y + 0.14), (0.11, 0.11))], 0.172, p.dark)
    )
    parts += [line([(rear, radius, z), (rear + base * 0.45, 0.42, z)], 0.06, p.dark) for z in (-0.1, 0.1)]
    pipe_end = (rear - 0.1, radius * 1.0 if kind != "enduro" else 0.7)
    parts.append(
        line([(rear + base * 0.6, 0.32, 0.2), (rear + base * 0.35, 0.28, 0.2), (*pipe_end, 0.2)], 0.09, p.metal)
    )
    tank = [
        (seat[0] + 0.2, seat[1] - 0.12),
        (head[0] + 0.02, head[1] - 0.2),
        (head[0], head[1] - 0.02),
        (head[0] - 0.25, head[1] + 0.06),
        (seat[0] + 0.25, seat[1]),
    ]
    tail_y = seat[1] + (0.12 if kind == "sports" else 0.02)
    tail = [
        (rear - 0.12, tail_y),
        (seat[0] - 0.1, seat[1] - 0.16),
        (seat[0] + 0.26, seat[1] - 0.14),
        (seat[0] + 0.24, seat[1] - 0.03),
        (rear - 0.1, tail_y + 0.05),
    ]
    parts += [prism(tail, 0.13, p.body if kind != "cruiser" else p.dark), prism(rounded(tank), 0.16, p.body)]
    parts.append(line([(seat[0] - 0.2, seat[1], 0), (seat[0] + 0.2, seat[1] - 0.02, 0)], 0.12, p.dark))
    parts += [_guard((front, radius), radius + (0.2 if kind == "enduro" else 0.05), p.body, 0.09)]
    if kind == "cruiser" or rng.random() < 0.3:
        parts.append(_guard((rear, radius), radius + 0.05, p.body, 0.1))
    if kind == "sports":
        parts += _fairing(rng, p, rear + base * 0.4, floor_y, head)
    if kind in ("standard", "cruiser") and rng.random() < 0.4:
        parts += [
            moved(prism(rounded(rectangle((rear - 0.25, rear + 0.3), (0.45, 0.8))), 0.1, p.load), z=z)
            for z in (-0.26, 0.26)
        ]
    return seat, parts


def _scooter(p: Paint, axles: Point, radius: float, head: Point) -> tuple[Point, list[Part]]:
    rear, front = axles
    seat = (rear + 0.3, 0.78)
    shell = [(rear - 0.28, 0.42), (rear + 0.5, 0.25), (rear + 0.62, 0.28), (rear + 0.58, 0.7), (rear - 0.2, 0.72)]
    floor = [(rear + 0.4, 0.2), (head[0] - 0.02, 0.2), (head[0], 0.28), (rear + 0.4, 0.3)]
    shield = [(head[0] - 0.02, 0.2), (head[0] + 0.12, 0.3), (head[0] + 0.05, head[1]), (head[0] - 0.06, head[1])]
    parts = [prism(rounded(shell), 0.19, p.body), prism(floor, 0.17, p.trim), prism(shield, 0.2, p.body)]
    parts += [
        prism(rounded(rectangle((rear - 0.22, rear + 0.56), (0.72, 0.82))), 0.15, p.dark),
        _guard((front, radius), radius + 0.05, p.body, 0.16),
    ]
    return seat, parts


def _fairing(rng: np.random.Generator, p: Paint, foot: float, floor_y: float, head: Point) -> list[Part]:
    fairing = [
        (foot, floor_y + 0.05),
        (head[0] + 0.02, floor_y + 0.12),
        (head[0] + 0.2, head[1] - 0.2),
        (head[0] + 0.1, head[1] + 0.02),
        (head[0] - 0.18, head[1] - 0.1),
    ]
    shell = prism(rounded(fairing), 0.21, p.body, p.body if rng.random() < 0.5 else p.trim)
    x, y = head
    return [shell, prism([(x - 0.05, y), (x + 0.14, y - 0.02), (x - 0.03, y + 0.2)], 0.12, p.glass)]


def rider(
    rng: np.random.Generator, p: Paint, seat: Point, hands: Point, feet: tuple[Point, Point], lean: float, apart: float,
    helmet: bool = False,
) -> list[Part]:  # fmt: skip
    """A person astride, made of rods: `lean` in radians, feet and hands in (x, y)."""
    size = uniform(rng, 0.92, 1.08)
    hip = (seat[0], seat[1] + 0.08)
    neck = (hip[0] + 0.52 * size * float(np.sin(lean + 0.1)), hip[1] + 0.52 * size * float(np.cos(lean + 0.1)))
    pieces = []
    for z, foot in zip((apart, -apart), feet, strict=True):
        middle = ((hip[0] + foot[0]) / 2, (hip[1] + foot[1]) / 2)
        knee = (middle[0] + 0.2, middle[1] + 0.06)
        pieces.append(line([(*hip, z * 0.7), (*knee, z), (*foot, z)], 0.13, p.legs))
        pieces.append(line([(foot[0] - 0.05, foot[1] - 0.03, z), (foot[0] + 0.14, foot[1] - 0.04, z)], 0.09, p.dark))
        elbow = ((neck[0] + hands[0]) / 2 - 0.03, (neck[1] + hands[1]) / 2 - 0.1)
        wide = 0.2 if z > 0 else -0.2
        pieces.append(line([(neck[0], neck[1] - 0.06, wide), (*elbow, wide * 1.3), (*hands, wide * 1.2)], 0.09, p.top))
    pieces.append(line([(*hip, 0), (neck[0], neck[1] - 0.08, 0)], 0.3, p.top))
    crown = (neck[0] + 0.06, neck[1] + 0.17, 0.0)
    pieces.append(line([crown], 0.24 if not helmet else 0.29, p.skin if not helmet else p.load))
    if helmet or rng.random() < 0.5:
        pieces.append(
            line([(crown[0] + 0.03, crown[1] + (0.0 if helmet else 0.06), 0)], 0.2, p.dark if helmet else p.load)
        )
    return pieces


def _rod(a: Point, b: Point, width: float, colour: Colour) -> Part:
    return line([(*a, 0.0), (*b, 0.0)], width, colour)


def _disc(at: Point, radius: float, z: float, colour: Colour) -> Part:
    return prism([tuple(q) for q in ellipse(at, (radius, radius), 12)], 0.01, colour, z=z)


def _spoked(at: Point, radius: float, thick: float, p: Paint) -> list[Part]:
    flat = ellipse(at, (radius, radius), 22)
    loop = np.column_stack([flat, np.zeros(len(flat))])
    rim = ellipse(at, (radius - thick * 0.9, radius - thick * 0.9), 22)
    faces = [Face(np.stack([np.array([*at, 0.0]), loop[i]]), p.metal, width=0.006) for i in range(0, 22, 2)]
    faces.append(Face(np.vstack([np.column_stack([rim, np.zeros(22)]), [[*rim[0], 0.0]]]), p.rim, 1, width=thick * 0.6))
    faces.append(Face(np.vstack([loop, loop[:1]]), p.tyre, 2, width=thick))
    return [part(faces)]


def _guard(at: Point, radius: float, colour: Colour, wide: float = 0.04) -> Part:
    angle = np.linspace(0.15 * np.pi, 0.85 * np.pi, 7)
    points = [(at[0] + radius * float(np.cos(a)), at[1] + radius * float(np.sin(a)), 0.0) for a in angle]
    return line(points, wide, colour)

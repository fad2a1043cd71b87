"""Heavy vehicles on roads: buses and lorries."""

from __future__ import annotations

import numpy as np

from finetune.data.samples.colours import Paint
from finetune.data.samples.motors import Span, arches, ends, pick, uniform
from finetune.data.samples.solid import Part, across, barrel, box, line, on_sides, pane, prism, rectangle, rounded, wheel

# --- buses -----------------------------------------------------------------------------------------------------------


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
    outline = [(rear, clear), (face, clear), (face, clear + 0.95), (face - slope, height - 0.25), (face - slope - 0.3, height),
               (rear + 0.2, height), (rear, height - 0.25)]  # fmt: skip
    body = prism(outline, half, p.body)
    radius = uniform(rng, 0.45, 0.54)
    axles: tuple[float, ...] = (rear + length * uniform(rng, 0.2, 0.27), front - (2.4 if kind != "bonnet" else 0.75))
    if kind in ("coach", "double") and rng.random() < 0.4:
        axles = (axles[0], axles[0] + 1.25, axles[1])
    low = clear + (1.35 if kind == "coach" else uniform(rng, 0.75, 0.95))
    floors = [(low, low + 0.85), (low + 1.75, low + 2.55)] if kind == "double" else [(low, min(height - 0.35, low + uniform(rng, 0.95, 1.25)))]
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
    body.faces.append(across((rear - 0.004, floors[0][1]), (rear - 0.004, floors[0][0] + 0.1), (-half * 0.75, half * 0.75), p.glass))
    pieces = [body, *[w for x in axles for w in wheel(x, radius, half + 0.01, 0.3, p.tyre, p.rim, 0.56)]]
    if kind == "bonnet":
        nose = prism(rounded([(face, clear), (front, clear), (front, clear + 0.75), (face, clear + 1.0)], 0.12), half * 0.86, p.body)
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
        body.faces.extend(on_sides(rectangle((x[0] + 0.01, x[1]), (at, at + uniform(rng, 0.12, 0.5))), out - 0.001, p.trim))
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
            body.faces.append(on_sides(rectangle((a, a + 0.38), (clear + 0.2, floors[0][1] - 0.1)), out + 0.004, p.glass)[0])


def _roof_gear(rng: np.random.Generator, p: Paint, x: Span, height: float, half: float) -> list[Part]:
    if rng.random() < 0.5:
        return []
    at = uniform(rng, x[0] + 1.0, x[1] - 3.5)
    return [box((at, at + uniform(rng, 1.2, 2.4)), (height, height + uniform(rng, 0.15, 0.35)), (-half * 0.7, half * 0.7), p.trim)]


# --- lorries ---------------------------------------------------------------------------------------------------------


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
    pieces += _lorry_load(rng, p, kind, (rear, rear + load), frame, half)
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
    outline = [(rear, clear), (front, clear), (front, belt), (front - slope, top), (front - slope - 0.25, height), (rear, height)]
    cab = prism(outline, half, p.body)
    out = half + 0.004
    window = [(front - 0.95, belt), (front - 0.12, belt), (front - slope - 0.08, top - 0.08), (front - 0.95, top - 0.08)]
    cab.faces.extend(on_sides(window, out, p.glass))
    for at in (front - 1.05, front - 0.08):
        cab.faces.extend(on_sides(rectangle((at, at + 0.03), (clear + 0.3, top)), out, p.dark))
    cab.faces.append(pane((front + 0.004, belt + 0.04), (front - slope + 0.004, top - 0.03), (half - 0.12, half - 0.16), p.glass))
    if rng.random() < 0.4:
        cab.faces.extend(on_sides(rectangle((rear + 0.02, front - 0.02), (belt - 0.45, belt - 0.2)), out, p.trim))
    pieces = [cab]
    if bonnet:
        nose = prism([(front, clear), (front + bonnet, clear), (front + bonnet, belt - 0.25), (front, belt - 0.05)], half * 0.78, p.body)
        ends(nose, (front, front + bonnet), clear + 0.5, half * 0.78, p, high=True)
        pieces.append(nose)
    else:
        ends(cab, (rear, front), clear + 0.35, half, p, high=True)
        arches(cab, (rear + (front - rear) * 0.55,), radius, half, p.dark)
    if rng.random() < 0.35:
        wing = [(rear + 0.1, height), (front - slope - 0.4, height), (rear + 0.1, height + uniform(rng, 0.3, 0.7))]
        pieces.append(prism(wing, half * 0.85, p.body))
    pieces += [line([(front - 0.05, belt + 0.5, z), (front + 0.12, belt + 0.45, z * 1.1)], 0.16, p.dark) for z in (-half, half)]
    return pieces


def _lorry_load(rng: np.random.Generator, p: Paint, kind: str, x: Span, frame: float, half: float) -> list[Part]:
    middle = (x[0] + x[1]) / 2
    if kind == "tanker":
        r = uniform(rng, 0.85, 1.1)
        tank = barrel((x[0] + 0.15, x[1] - 0.1), (frame + r + 0.1, 0.0), (r, half * 0.97), p.load)
        saddles = [box((a, a + 0.25), (frame, frame + 0.4), (-half * 0.7, half * 0.7), p.dark) for a in (x[0] + 0.6, x[1] - 0.9)]
        top = box((middle - 0.5, middle + 0.5), (frame + 2 * r + 0.1, frame + 2 * r + 0.28), (-0.25, 0.25), p.metal)
        return [*saddles, tank, top, line([(x[0] + 0.5, frame + 2 * r + 0.3, 0.0), (x[1] - 0.5, frame + 2 * r + 0.3, 0.0)], 0.07, p.metal)]
    if kind == "tipper":
        tall = uniform(rng, 1.1, 1.5)
        tub = prism([(x[0] - 0.1, frame + 0.05), (x[1], frame + 0.05), (x[1], frame + tall + 0.2), (x[0] + 0.25, frame + tall)], half, p.load)
        for a in np.linspace(x[0] + 0.5, x[1] - 0.3, 5).tolist():
            tub.faces.extend(on_sides(rectangle((a, a + 0.1), (frame + 0.1, frame + tall)), half + 0.004, p.dark))
        heap = prism([(x[0] + 0.5, frame + tall), (x[1] - 0.3, frame + tall), (middle, frame + tall + uniform(rng, 0.3, 0.7))], half * 0.8, p.trim)
        return [tub, heap]
    if kind == "flatbed":
        pieces = [box((x[0], x[1]), (frame, frame + 0.14), (-half, half), p.trim), box((x[1] - 0.1, x[1]), (frame + 0.14, frame + 1.2), (-half, half), p.dark)]
        if rng.random() < 0.5:
            pieces += [barrel((x[0] + 0.3, x[1] - 0.3), (frame + y, z), (0.26, 0.26), p.load) for y, z in ((0.4, -0.6), (0.4, 0.0), (0.4, 0.6), (0.85, -0.3), (0.85, 0.3))]
            return pieces
        at = x[0] + 0.3
        while at < x[1] - 1.4:
            wide = uniform(rng, 0.7, 1.4)
            pieces.append(box((at, at + wide), (frame + 0.14, frame + uniform(rng, 0.6, 1.5)), (-half * 0.8, half * 0.8), p.load))
            at += wide + uniform(rng, 0.1, 0.5)
        return pieces
    if kind == "mixer":
        axis = frame + 1.35
        drum = [(x[0] + 0.1, axis + 0.45), (x[0] + 1.3, axis - 0.9), (x[1] - 1.2, axis - 1.1), (x[1] - 0.1, axis - 0.5), (x[1] - 0.1, axis + 0.2),
                (x[1] - 1.4, axis + 0.95), (x[0] + 0.3, axis + 1.1)]  # fmt: skip
        halves = [0.4, 0.9, 1.1, 0.5, 0.5, 1.1, 0.4]
        body = prism(rounded(drum, 0.15), [h * 0.9 for h in halves for _ in (0, 1)], p.load)
        for a in (x[0] + 1.2, x[1] - 1.5):
            body.faces.extend(on_sides([(a, axis - 0.9), (a + 0.3, axis - 0.95), (a + 0.8, axis + 0.9), (a + 0.5, axis + 0.95)], half * 0.9, p.trim))
        return [body, line([(x[0] - 0.1, frame, 0.0), (x[0] + 0.2, axis + 0.6, 0.0)], 0.25, p.metal)]
    tall = uniform(rng, 2.0, 2.7)
    hull = box((x[0], x[1]), (frame, frame + tall), (-half, half), p.load)
    _hull_sides(rng, p, hull, kind, x, (frame, frame + tall), half)
    return [hull]


def _hull_sides(rng: np.random.Generator, p: Paint, hull: Part, kind: str, x: Span, y: Span, half: float) -> None:
    out = half + 0.004
    if kind == "container" or rng.random() < 0.3:
        for a in np.arange(x[0] + 0.25, x[1] - 0.1, 0.5).tolist():
            hull.faces.extend(on_sides(rectangle((a, a + 0.12), (y[0] + 0.15, y[1] - 0.15)), out, (p.load[0] * 0.72, p.load[1] * 0.72, p.load[2] * 0.72)))
    elif rng.random() < 0.6:
        a, b = uniform(rng, x[0] + 0.4, x[0] + 1.4), uniform(rng, x[1] - 2.0, x[1] - 0.4)
        low = uniform(rng, y[0] + 0.3, y[1] - 1.2)
        hull.faces.extend(on_sides(rectangle((a, b), (low, low + uniform(rng, 0.4, 1.0))), out, p.trim))
    hull.faces.extend(on_sides(rectangle(x, (y[0], y[0] + 0.12)), out, p.dark))
    hull.faces.append(across((x[0] - 0.004, y[1] - 0.1), (x[0] - 0.004, y[0] + 0.1), (-0.03, 0.03), p.dark))
    for z in ((-half * 0.95, -half * 0.7), (half * 0.7, half * 0.95)):
        hull.faces.append(across((x[0] - 0.004, y[0] + 0.3), (x[0] - 0.004, y[0] + 0.1), z, p.tail, glows=True))

"""Solids of flat faces: what the drawn vehicles and their surroundings are made of.

Lengths are metres. Of a vehicle, x points forward, y up and z to its right-hand side; the ground is y = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]
"""Red, green and blue, 0 to 255."""

Flat = Sequence[tuple[float, float]]
"""Points of an outline in a plane, in either direction."""

STRIP, CAP, DECAL = 0, 1, 2
"""Order of painting within a part: what lies round it, its two ends, and what is painted on them."""


class Face(NamedTuple):
    """A polygon (three points or more), a line (two or more, with a width) or a ball (one, with a width).

    Attributes:
        points: (n, 3) float64.
        colour: before light falls on it.
        layer: STRIP, CAP or DECAL.
        width: of a line or a ball in metres; 0 for a polygon, which is seen from its counter-clockwise side only.
        glows: shown in its own colour whatever the light.
    """

    points: NDArray[np.float64]
    colour: Colour
    layer: int = STRIP
    width: float = 0.0
    glows: bool = False


@dataclass
class Part:
    """Faces that are painted together, and the box by which parts are put in order.

    Attributes:
        faces: in any order.
        low: (3,) float64, the corner of the box with the smallest coordinates.
        high: (3,) float64, the opposite corner.
    """

    faces: list[Face]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def part(faces: Sequence[Face]) -> Part:
    """A part whose box is that of its faces."""
    points = np.concatenate([face.points for face in faces])
    return Part(list(faces), points.min(0), points.max(0))


def moved(piece: Part, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Part:
    """The same part somewhere else."""
    by = np.array([x, y, z])
    return Part([face._replace(points=face.points + by) for face in piece.faces], piece.low + by, piece.high + by)


def extrude(front: NDArray[np.float64], back: NDArray[np.float64], colour: Colour, end: Colour | None = None) -> Part:
    """The solid between two outlines of as many points.

    Args:
        front: (n, 3), counter-clockwise as seen from outside.
        back: (n, 3), the point that belongs to each of `front`.
        colour: of the strips round it.
        end: of the two outlines; `colour` if not given.
    """
    ring = range(len(front))
    strips = [
        Face(np.stack([front[i], back[i], back[j], front[j]]), colour) for i in ring for j in [(i + 1) % len(ring)]
    ]
    return part([*strips, Face(front, end or colour, CAP), Face(back[::-1], end or colour, CAP)])


def prism(
    outline: Flat, half: float | Sequence[float], colour: Colour, end: Colour | None = None, z: float = 0.0
) -> Part:
    """An outline in (x, y) made `half` wide to either side of `z`; one half width, or one for each point."""
    flat, halves = _counter_clockwise(outline, half)
    return extrude(np.column_stack([flat, z + halves]), np.column_stack([flat, z - halves]), colour, end)


def _counter_clockwise(outline: Flat, half: float | Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    flat = np.asarray(outline, dtype=np.float64)
    halves = np.broadcast_to(np.asarray(half, dtype=np.float64), len(flat))
    corners = flat.tolist()
    area = sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(corners, [*corners[1:], corners[0]], strict=True))
    return (flat, halves) if area > 0 else (flat[::-1], halves[::-1])


def box(x: tuple[float, float], y: tuple[float, float], z: tuple[float, float], colour: Colour) -> Part:
    """A box between two values on each axis."""
    outline = [(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])]
    return prism(outline, (z[1] - z[0]) / 2, colour, z=(z[0] + z[1]) / 2)


def barrel(x: tuple[float, float], centre: tuple[float, float], radii: tuple[float, float], colour: Colour) -> Part:
    """A lying cylinder along x; centre and radii are in (y, z)."""
    flat = ellipse(centre, radii, 14)
    loop = [np.column_stack([np.full(len(flat), end), flat]) for end in (x[1], x[0])]
    return extrude(loop[0], loop[1], colour)


def ellipse(centre: tuple[float, float], radii: tuple[float, float], corners: int = 18) -> NDArray[np.float64]:
    """(corners, 2) points of an ellipse, counter-clockwise."""
    angle = np.arange(corners) * (2 * np.pi / corners)
    return np.column_stack([centre[0] + radii[0] * np.cos(angle), centre[1] + radii[1] * np.sin(angle)])


def line(points: Sequence[tuple[float, float, float]], width: float, colour: Colour) -> Part:
    """A rod bent at each point; a ball where there is only one point."""
    piece = part([Face(np.asarray(points, dtype=np.float64), colour, width=width)])
    return Part(piece.faces, piece.low - width / 2, piece.high + width / 2)


def rounded(outline: Flat, cut: float = 0.22) -> list[tuple[float, float]]:
    """The outline with every corner cut off (Chaikin's corner cutting, one pass)."""
    result: list[tuple[float, float]] = []
    for (x0, y0), (x1, y1) in zip(outline, [*outline[1:], outline[0]], strict=True):
        result.append((x0 + cut * (x1 - x0), y0 + cut * (y1 - y0)))
        result.append((x1 + cut * (x0 - x1), y1 + cut * (y0 - y1)))
    return result


# --- what is painted on solids ---------------------------------------------------------------------------------------


def on_sides(outline: Flat, half: float | Sequence[float], colour: Colour, glows: bool = False) -> list[Face]:
    """An outline in (x, y) painted on both sides of a vehicle, `half` from its middle (one value, or one a point)."""
    flat, halves = _counter_clockwise(outline, half)
    right, left = np.column_stack([flat, halves]), np.column_stack([flat, -halves])[::-1]
    return [Face(right, colour, DECAL, glows=glows), Face(left, colour, DECAL, glows=glows)]


def rectangle(x: tuple[float, float], y: tuple[float, float]) -> list[tuple[float, float]]:
    """The outline of a rectangle."""
    return [(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])]


def across(
    start: tuple[float, float], end: tuple[float, float], z: tuple[float, float], colour: Colour, glows: bool = False
) -> Face:
    """A pane across a vehicle from `start` to `end` in (x, y), facing to the right of that direction."""
    (x0, y0), (x1, y1) = start, end
    return Face(np.array([(x0, y0, z[1]), (x0, y0, z[0]), (x1, y1, z[0]), (x1, y1, z[1])]), colour, DECAL, glows=glows)


def pane(start: tuple[float, float], end: tuple[float, float], half: tuple[float, float], colour: Colour) -> Face:
    """A pane across a vehicle that narrows from half[0] at `start` to half[1] at `end`."""
    (x0, y0), (x1, y1) = start, end
    corners = [(x0, y0, half[0]), (x0, y0, -half[0]), (x1, y1, -half[1]), (x1, y1, half[1])]
    return Face(np.array(corners), colour, DECAL)


def wheel(
    x: float, radius: float, z: float, thick: float, tyre: Colour, rim: Colour, share: float = 0.62
) -> list[Part]:
    """A wheel on each side of a vehicle, its outer face `z` from the middle; `share` of the radius is rim."""
    wheels = []
    for side in (1.0, -1.0):
        piece = prism(
            [tuple(p) for p in ellipse((x, radius), (radius, radius))], thick / 2, tyre, z=side * (z - thick / 2)
        )
        inner: Colour = (rim[0] * 0.8, rim[1] * 0.8, rim[2] * 0.8)
        for part_of, colour in ((share, rim), (share * 0.72, inner), (0.16, tyre)):
            flat = ellipse((x, radius), (radius * part_of, radius * part_of), 14)
            points = np.column_stack([flat, np.full(len(flat), side * z)])
            piece.faces.append(Face(points if side > 0 else points[::-1], colour, DECAL))
        # The order of painting goes by the outer face alone: a wheel stands half inside the body's box.
        low, high = sorted((side * z, side * (z - 0.01)))
        wheels.append(Part(piece.faces, np.array([*piece.low[:2], low]), np.array([*piece.high[:2], high])))
    return wheels

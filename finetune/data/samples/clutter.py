"""What stands about in the drawn scenes, measured in frames (see scene.py)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.data.samples.chance import pick, uniform
from finetune.data.samples.colours import any_paint, jitter
from finetune.data.samples.solid import Colour, Part, across, box, line, on_sides, rectangle

LEAVES: tuple[Colour, ...] = ((62, 104, 50), (92, 130, 60), (44, 82, 56), (150, 120, 50), (168, 90, 46), (110, 112, 70))


@dataclass(frozen=True)
class Place:
    """Where things are put down: positions on the ground seen from the camera.

    Attributes:
        centre: (3,) the middle of the vehicle on the ground, metres.
        right: (3,) to the right in the picture, along the ground.
        away: (3,) away from the camera, along the ground.
        frame: width of the picture at the vehicle's distance, metres.
    """

    centre: NDArray[np.float64]
    right: NDArray[np.float64]
    away: NDArray[np.float64]
    frame: float

    def at(self, right: float, away: float) -> tuple[float, float]:
        """x and z of a place so many frames to the right of the vehicle and behind it."""
        point = self.centre + self.frame * (right * self.right + away * self.away)
        return float(point[0]), float(point[2])


def thing(rng: np.random.Generator, place: Place, side: float, away: float, scale: float) -> list[Part]:
    """Something that stands about: a tree, a pole, a bush, a crate, tyres, a person, a sign or a hut."""
    kind = pick(rng, "tree", "tree", "conifer", "pole", "bush", "crate", "tyres", "person", "sign", "hut")
    if kind in ("tree", "conifer"):
        return tree(rng, place, side, away, uniform(rng, 0.4, 1.1) * scale, kind == "conifer")
    if kind == "bush":
        return bush(rng, place, side, away, uniform(rng, 0.08, 0.22) * scale)
    if kind in ("pole", "sign"):
        return pole(rng, place, side, away, uniform(rng, 0.4, 1.1) * scale)
    if kind == "person":
        return person(rng, place, side, away, uniform(rng, 0.25, 0.4) * scale)
    if kind == "hut":
        return building(rng, place, side, away + 0.2, uniform(rng, 0.3, 0.6) * scale)
    x, z = place.at(side, away)
    f = place.frame
    if kind == "tyres":
        r = uniform(rng, 0.04, 0.09) * f * scale
        rings = []
        for i in range(int(rng.integers(1, 4))):
            sx, sz = place.at(side + 2.1 * r / f * i, away)
            rings += [
                line([(sx, r, sz)], 2 * r, jitter(rng, (42, 42, 44), 8)),
                line([(sx, r, sz)], 1.1 * r, jitter(rng, (160, 160, 164), 30)),
            ]
        return rings
    w, h = uniform(rng, 0.06, 0.2) * f * scale, uniform(rng, 0.06, 0.25) * f * scale
    return [box((x - w, x + w), (0, h), (z - w * 0.5, z + w * 0.5), any_paint(rng))]


def tree(rng: np.random.Generator, place: Place, side: float, away: float, tall: float, conifer: bool) -> list[Part]:
    """A tree, `tall` frames high."""
    x, z = place.at(side, away)
    f, leaf = place.frame, LEAVES[int(rng.integers(len(LEAVES)))]
    pieces = [line([(x, 0, z), (x, tall * f * 0.6, z)], tall * f * uniform(rng, 0.05, 0.1), jitter(rng, (92, 74, 58)))]
    right = place.right
    for i in range(int(rng.integers(5, 10))):
        if conifer:
            up, out, wide = 0.2 + 0.09 * i, 0.0, 0.42 - 0.042 * i
        else:
            up, out, wide = 0.68 + rng.normal(0, 0.13), rng.normal(0, 0.14), uniform(rng, 0.25, 0.42)
        at = (x + right[0] * out * tall * f, max(up, 0.1) * tall * f, z + right[2] * out * tall * f)
        pieces.append(line([at], max(0.05, wide) * tall * f, jitter(rng, leaf, 12)))
    return pieces


def bush(rng: np.random.Generator, place: Place, side: float, away: float, wide: float) -> list[Part]:
    """A bush, about `wide` frames to either side."""
    leaf = LEAVES[int(rng.integers(len(LEAVES)))]
    pieces = []
    for _ in range(int(rng.integers(4, 9))):
        x, z = place.at(side + rng.normal(0, wide * 0.7), away)
        r = uniform(rng, 0.5, 1.0) * wide * place.frame
        pieces.append(line([(x, r * 0.6, z)], 1.5 * r, jitter(rng, leaf, 12)))
    return pieces


def pole(rng: np.random.Generator, place: Place, side: float, away: float, tall: float) -> list[Part]:
    """A pole with a disc, a lamp, a board or nothing on it."""
    x, z = place.at(side, away)
    f, right = place.frame, place.right * place.frame
    pieces = [line([(x, 0, z), (x, tall * f, z)], uniform(rng, 0.015, 0.045) * f, jitter(rng, (120, 122, 126), 40))]
    kind = pick(rng, "disc", "lamp", "board", "bare")
    if kind == "disc":
        r = uniform(rng, 0.05, 0.11) * f
        pieces += [line([(x, tall * f, z)], 2 * r, any_paint(rng)), line([(x, tall * f, z)], 1.4 * r, any_paint(rng))]
    elif kind == "lamp":
        end = (x + right[0] * 0.18, tall * f * 1.02, z + right[2] * 0.18)
        pieces.append(line([(x, tall * f, z), end], 0.02 * f, jitter(rng, (120, 122, 126), 40)))
    elif kind == "board":
        wide, at = uniform(rng, 0.06, 0.16), tall * f * 0.9
        ends = [(x + s * right[0] * wide, at, z + s * right[2] * wide) for s in (-1, 1)]
        pieces.append(line(ends, uniform(rng, 0.06, 0.14) * f, any_paint(rng)))
    return pieces


def person(rng: np.random.Generator, place: Place, side: float, away: float, tall: float) -> list[Part]:
    """A person on foot, `tall` frames high."""
    x, z = place.at(side, away)
    h = tall * place.frame
    step = place.right * h * uniform(rng, 0.03, 0.12)
    legs, top = any_paint(rng), any_paint(rng)
    pieces = [line([(x + s * step[0], 0, z + s * step[2]), (x, h * 0.48, z)], 0.1 * h, legs) for s in (-1, 1)]
    pieces.append(line([(x, h * 0.45, z), (x, h * 0.8, z)], 0.22 * h, top))
    return [*pieces, line([(x, h * 0.92, z)], 0.15 * h, jitter(rng, (190, 140, 110), 30))]


def barrier(rng: np.random.Generator, place: Place, away: float, tall: float | None = None) -> list[Part]:
    """A wall, or a fence with rails and posts."""
    f, tall = place.frame, tall if tall is not None else uniform(rng, 0.08, 0.3)
    colour = any_paint(rng)
    start, stop = uniform(rng, -2.2, 0.2), uniform(rng, 0.0, 2.2)
    (x0, z0), (x1, z1) = place.at(start, away), place.at(stop, away)
    if rng.random() < 0.35:
        return [line([(x0, tall * f / 2, z0), (x1, tall * f / 2, z1)], tall * f, colour)]
    rails = [
        line([(x0, y * tall * f, z0), (x1, y * tall * f, z1)], uniform(rng, 0.012, 0.03) * f, colour)
        for y in (0.45, 0.95)
    ]
    posts = []
    for share in np.linspace(0, 1, int(rng.integers(8, 26))).tolist():
        x, z = x0 + share * (x1 - x0), z0 + share * (z1 - z0)
        posts.append(line([(x, 0, z), (x, 1.05 * tall * f, z)], 0.018 * f, colour))
    return [*rails, *posts]


def building(rng: np.random.Generator, place: Place, side: float, away: float, tall: float) -> list[Part]:
    """A house with rows of windows, `tall` frames high."""
    x, z = place.at(side, away)
    f = place.frame
    w, d, h = uniform(rng, 0.25, 0.9) * tall * f, uniform(rng, 0.2, 0.5) * tall * f, tall * f
    wall, glass = any_paint(rng), jitter(rng, (110, 124, 138), 40)
    house = box((x - w, x + w), (0, h), (z - d, z + d), wall)
    rows, columns = int(rng.integers(1, 6)), int(rng.integers(2, 7))
    for i in range(rows):
        y = (h * (i + 0.3) / rows, h * (i + 0.75) / rows)
        for j in range(columns):
            a, b = ((2 * (j + s) / columns - 1) for s in (0.2, 0.75))
            for face in on_sides(rectangle((a * w, b * w), y), d + 0.004 * f, glass):
                house.faces.append(face._replace(points=face.points + np.array([x, 0.0, z])))
            low, high = sorted((z + a * d, z + b * d))
            house.faces.append(across((x + w + 0.004 * f, y[0]), (x + w + 0.004 * f, y[1]), (low, high), glass))
            house.faces.append(across((x - w - 0.004 * f, y[1]), (x - w - 0.004 * f, y[0]), (low, high), glass))
    return [house]

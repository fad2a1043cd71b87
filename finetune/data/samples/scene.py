"""Where the drawn vehicles stand: ground, sky, and what is in front of them and behind.

Everything here is measured in frames (the width of the picture at the vehicle's distance), never in metres, so that the
surroundings of a bicycle and of a bus look alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from finetune.data.samples.camera import Camera, ground_polygon
from finetune.data.samples.chance import pick, uniform
from finetune.data.samples.clutter import LEAVES, Place, barrier, building, bush, person, pole, thing
from finetune.data.samples.colours import jitter
from finetune.data.samples.solid import Colour, Part, line

GROUNDS: tuple[Colour, ...] = (
    (104, 106, 110), (134, 132, 128), (78, 80, 86), (96, 130, 66), (124, 146, 80), (150, 120, 84),
    (196, 178, 136), (226, 230, 236), (116, 92, 70),
)  # fmt: skip
SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((92, 148, 214), (190, 216, 240)),
    ((150, 160, 172), (206, 210, 214)),
    ((60, 84, 140), (244, 178, 120)),
    ((120, 176, 220), (240, 240, 230)),
    ((178, 186, 196), (228, 226, 220)),
    ((44, 56, 92), (150, 140, 160)),
    ((212, 170, 140), (246, 222, 190)),
)


# --- flat things: sky, hills, ground ---------------------------------------------------------------------------------


def backdrop(rng: np.random.Generator, size: int, camera: Camera, place: Place) -> Image.Image:
    """An RGB picture of sky and ground, with road markings, rows or paving, before anything stands there."""
    top, bottom = (np.asarray(jitter(rng, c), dtype=np.float64) for c in SKIES[int(rng.integers(len(SKIES)))])
    less = size // 3  # Sky and clouds are soft: drawn at a third of the size.
    share = np.linspace(0, 1, less)[:, None, None] ** uniform(rng, 0.6, 1.6)
    sky = Image.fromarray(np.broadcast_to(top * (1 - share) + bottom * share, (less, less, 3)).astype(np.uint8))
    _clouds(rng, ImageDraw.Draw(sky), less)
    picture = sky.resize((size, size), Image.Resampling.BICUBIC)
    far = place.centre + place.away * place.frame * 400
    line_at = camera.project(np.stack([far - place.right * place.frame * 300, far + place.right * place.frame * 300]))[
        0
    ]
    pen = ImageDraw.Draw(picture)
    if rng.random() < 0.6:
        _hills(rng, pen, size, line_at)
    _ground(rng, pen, camera, place)
    return _grain(rng, picture, size, float(line_at[:, 1].mean()))


def _clouds(rng: np.random.Generator, pen: ImageDraw.ImageDraw, size: int) -> None:
    for _ in range(int(rng.integers(0, 5))):
        x, y, grey = uniform(rng, 0, size), uniform(rng, 0, size * 0.6), int(rng.integers(190, 250))
        for _ in range(int(rng.integers(3, 7))):
            w, h = uniform(rng, 0.05, 0.2) * size, uniform(rng, 0.02, 0.06) * size
            cx, cy = x + rng.normal(0, 0.09) * size, y + rng.normal(0, 0.02) * size
            pen.ellipse((cx - w, cy - h, cx + w, cy + h), fill=(grey, grey, min(255, grey + 4)))


def _hills(rng: np.random.Generator, pen: ImageDraw.ImageDraw, size: int, line_at: NDArray[np.float64]) -> None:
    left, right = line_at
    for _ in range(int(rng.integers(1, 3))):
        share = np.linspace(0, 1, 28)
        wave = sum(uniform(rng, 0.3, 1) / k * np.sin(k * (6.3 * share + uniform(rng, 0, 6.3))) for k in (1, 2, 4, 9))
        tall = (np.asarray(wave) + 1.6) * uniform(rng, 0.015, 0.06) * size
        x = -0.1 * size + share * 1.2 * size
        y = left[1] + (x - left[0]) * (right[1] - left[1]) / (right[0] - left[0]) - tall
        colour = jitter(rng, LEAVES[int(rng.integers(len(LEAVES)))] if rng.random() < 0.6 else (130, 140, 160))
        fill = tuple(int(c) for c in colour)
        pen.polygon(
            [*zip(x.tolist(), y.tolist(), strict=True), (1.2 * size, 3 * size), (-0.2 * size, 3 * size)], fill=fill
        )


def _ground(rng: np.random.Generator, pen: ImageDraw.ImageDraw, camera: Camera, place: Place) -> None:
    reach = 500.0
    _quad(pen, camera, place, (0.0, 0.0), (reach, reach), 0.0, any_ground(rng))
    turn = float(rng.choice([0.0, 0.0, uniform(rng, -0.4, 0.4), np.pi / 2]))
    kind = pick(rng, "road", "road", "rows", "paving", "plain")
    if kind in ("road", "paving"):
        shift, wide = uniform(rng, -0.15, 0.25), uniform(rng, 0.35, 0.8)
        _quad(pen, camera, place, (0.0, shift), (reach, wide), turn, any_ground(rng))
        if kind == "road":
            mark = jitter(rng, (232, 230, 220) if rng.random() < 0.8 else (232, 190, 60), 8)
            for edge in (-wide * 0.92, wide * 0.92):
                _quad(pen, camera, place, (0.0, shift + edge), (reach, 0.014), turn, mark)
            step = uniform(rng, 0.3, 0.6)
            for i in range(-8, 9):
                _quad(pen, camera, place, (i * step, shift), (step * 0.25, 0.014), turn, mark)
        else:
            seam = jitter(rng, (120, 118, 114))
            for i in range(-10, 11):
                _quad(pen, camera, place, (i * 0.3, shift), (0.008, wide), turn, seam)
    elif kind == "rows":
        stripe = any_ground(rng)
        for i in range(-14, 15):
            _quad(pen, camera, place, (0.0, i * 0.25), (60.0, 0.05), turn, stripe)


def any_ground(rng: np.random.Generator) -> Colour:
    """A colour of ground, drawn alike for every class."""
    return jitter(rng, GROUNDS[int(rng.integers(len(GROUNDS)))])


def _quad(
    pen: ImageDraw.ImageDraw, camera: Camera, place: Place, centre: tuple[float, float], half: tuple[float, float],
    turn: float, colour: Colour,
) -> None:  # fmt: skip
    # Along the vehicle's own axis when turn is 0: most of them drive along the road they stand on.
    ahead = np.array([np.cos(turn), 0.0, np.sin(turn)])
    beside = np.array([-ahead[2], 0.0, ahead[0]])
    middle = place.centre * (1, 0, 1) + place.frame * (centre[0] * ahead + centre[1] * beside)
    long, wide = place.frame * half[0] * ahead, place.frame * half[1] * beside
    corners = np.stack([middle - long - wide, middle + long - wide, middle + long + wide, middle - long + wide])
    flat = ground_polygon(corners, camera, 0.12 * place.frame, 4e3)
    if flat:
        pen.polygon(flat, fill=tuple(int(c) for c in colour))


def _grain(rng: np.random.Generator, picture: Image.Image, size: int, horizon: float) -> Image.Image:
    less = size // 3
    total = np.zeros((less, less), dtype=np.float32)
    for cells in (6, 24, 64):
        coarse = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
        total += np.asarray(coarse.resize((less, less), Image.Resampling.BILINEAR)) * uniform(rng, 0, 7)
    total *= np.clip((3 * np.arange(less)[:, None] - horizon) / (0.05 * size), 0.15, 1)
    grain = Image.fromarray(np.clip(total + 128, 0, 255).astype(np.uint8))
    grain = grain.resize((size, size), Image.Resampling.BILINEAR)
    return ImageChops.add(picture, Image.merge("RGB", (grain, grain, grain)), 1, -128)


# --- standing things -------------------------------------------------------------------------------------------------


def behind(rng: np.random.Generator, place: Place, clear: float) -> list[Part]:
    """What stands behind the vehicle, none of it nearer than `clear` frames."""
    pieces: list[Part] = []
    density = uniform(rng, 0.0, 1.0)
    if rng.random() < 0.35:
        pieces += building(rng, place, uniform(rng, -0.8, 0.8), clear + uniform(rng, 0.9, 2.0), uniform(rng, 0.8, 2.0))
    for _ in range(int(rng.integers(1, 3 + round(6 * density)))):
        away = clear + 0.1 + 2.5 * float(rng.random()) ** 1.5
        side = uniform(rng, -0.6, 0.6) * (1 + 0.5 * away)
        pieces += thing(rng, place, side, away, 1.0)
    if rng.random() < 0.35:
        pieces += barrier(rng, place, clear + uniform(rng, 0.1, 0.8))
    return pieces


def before(rng: np.random.Generator, place: Place, clear: float, room: float) -> list[list[Part]]:
    """Things between the camera and the vehicle, none to two, `clear` to `room` frames in front of it."""
    things: list[list[Part]] = []
    for _ in range(int(rng.choice(3, p=(0.45, 0.40, 0.15)))):
        away = -uniform(rng, clear, max(clear + 0.02, min(room, clear + 0.5)))
        side = uniform(rng, -0.5, 0.5)
        kind = pick(rng, "pole", "pole", "trunk", "bush", "thing", "barrier", "person")
        if kind == "barrier":
            things.append(barrier(rng, place, away, tall=uniform(rng, 0.05, 0.13)))
        elif kind == "bush":
            things.append(bush(rng, place, side, away, uniform(rng, 0.05, 0.12)))
        elif kind == "trunk":
            (x, z), wide = place.at(side, away), uniform(rng, 0.04, 0.1) * place.frame
            top = (x + 0.03 * place.frame, 1.6 * place.frame, z)
            things.append([line([(x, 0, z), top], wide, jitter(rng, (92, 74, 58)))])
        elif kind == "person":
            things.append(person(rng, place, side, away, uniform(rng, 0.2, 0.35)))
        elif kind == "pole":
            things.append(pole(rng, place, side, away, 1.3))
        else:
            things.append(thing(rng, place, float(np.sign(side) * (0.25 + abs(side))), away, 0.55))
    return things

"""The sample `vehicles`: drawn traffic scenes of eight classes, light and heavy.

Every picture is a pure function of (seed, class, index). Colours, surroundings, light and place in the picture are
drawn alike for all classes, so that only the shape tells them apart (benchmarks/sample_hardness.py measures it).
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.data.samples import buses, cycles, excavators, lorries, motors, scene, tractors
from finetune.data.samples.camera import Camera, look, paint, shadow, visible_share
from finetune.data.samples.chance import uniform
from finetune.data.samples.clutter import Place
from finetune.data.samples.colours import Paint, any_paints
from finetune.data.samples.photo import develop
from finetune.data.samples.solid import Part
from finetune.errors import UsageError, from_os_error
from finetune.files import TEMPORARY, fsync_folder, write_atomic

BUILDERS: dict[str, Callable[[np.random.Generator, Paint], list[Part]]] = {
    "bicycle": cycles.bicycle,
    "bus": buses.bus,
    "car": motors.car,
    "excavator": excavators.excavator,
    "lorry": lorries.lorry,
    "motorcycle": cycles.motorcycle,
    "tractor": tractors.tractor,
    "van": motors.van,
}
"""The classes, in alphabetical order, and what builds one vehicle of each."""

LEAST_VISIBLE = 0.7
"""Share of the vehicle that what stands before it leaves to be seen."""

SUPERSAMPLE = 3
"""Each pixel is the mean of 3 x 3 drawn ones: Pillow draws without anti-aliasing."""


def draw(folder: Path, per_class: int = 120, size: int = 128, seed: int = 0) -> list[str]:
    """Draw the sample into `folder`, one sub-folder of JPEG files per class.

    The pictures are drawn beside `folder` and moved there in one step when all are done, so that a half-drawn folder is
    never taken for a whole one. On one machine the same arguments give the same bytes.

    Args:
        folder: absent or empty.
        per_class: pictures of each class.
        size: width and height in pixels.
        seed: another seed, another sample.

    Returns:
        The class names in alphabetical order.

    Raises:
        UsageError: `folder` holds something, or a number is out of range.
        ResourceError: disk full, no permission, …
    """
    _check(folder, per_class, size, seed)
    folder = Path(os.path.realpath(folder))
    half_drawn = folder.with_name(f".{folder.name}.{os.getpid()}{TEMPORARY}")
    try:
        for name in BUILDERS:
            for index in range(per_class):
                write_atomic(half_drawn / name / f"{index:04d}.jpg", _encoded(name, index, size, seed))
        fsync_folder(half_drawn)
        half_drawn.rename(folder)  # replaces an empty folder, and fails if it is empty no longer
        fsync_folder(folder.parent)
    except OSError as error:
        raise from_os_error(error, folder, "write") from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(half_drawn)
    return list(BUILDERS)


def _check(folder: Path, per_class: int, size: int, seed: int) -> None:
    problems = []
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        problems.append(f"{folder}: there is something already; a sample is drawn into an absent or empty folder only")
    elif folder.exists() and folder.samefile(Path.cwd()):
        problems.append(f"{folder}: this is the working folder, which cannot be replaced by the finished sample")
    for name, value, low, high in (
        ("per_class", per_class, 1, 10_000),
        ("size", size, 32, 1024),
        ("seed", seed, 0, 2**63),
    ):
        if not low <= value <= high:
            problems.append(f"{name}: {value} is not between {low} and {high}")
    if problems:
        raise UsageError(problems, "name another folder, or numbers within the range")


def vehicle_box(name: str, index: int, size: int = 128, seed: int = 0) -> tuple[float, float, float, float]:
    """Where the vehicle stands in picture `index` of class `name`: left, upper, right, lower, as shares of the side.

    Args:
        name: of the class.
        index: of the picture.
        size, seed: as for `draw`.
    """
    rng = _random(name, index, seed)
    vehicle = BUILDERS[name](rng, any_paints(rng))
    camera, _ = _view(rng, vehicle, size * SUPERSAMPLE)
    flat, _ = camera.project(np.concatenate([face.points for piece in vehicle for face in piece.faces]))
    low, high = (np.clip(edge / (size * SUPERSAMPLE), 0.0, 1.0) for edge in (flat.min(0), flat.max(0)))
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _random(name: str, index: int, seed: int) -> np.random.Generator:
    # The class enters by a checksum of its name, so that a new class leaves the pictures of the others as they are.
    key = np.random.SeedSequence([seed, zlib.crc32(name.encode()), index])
    return np.random.Generator(np.random.Philox(key))


def _encoded(name: str, index: int, size: int, seed: int) -> bytes:
    """One picture as the bytes of a JPEG file."""
    rng = _random(name, index, seed)
    picture = develop(rng, _drawn(rng, name, size * SUPERSAMPLE), size)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=int(rng.integers(55, 93)))
    return buffer.getvalue()


def _drawn(rng: np.random.Generator, name: str, size: int) -> Image.Image:
    vehicle = BUILDERS[name](rng, any_paints(rng))
    camera, place = _view(rng, vehicle, size)
    radius = (
        max(float(np.abs(p).max()) for piece in vehicle for p in (piece.low[[0, 2]], piece.high[[0, 2]])) / place.frame
    )
    room = float(np.linalg.norm(camera.position - place.centre)) / place.frame * 0.6
    azimuth, altitude = uniform(rng, 0, 2 * np.pi), uniform(rng, 0.5, 1.3)
    light = np.array([np.cos(altitude) * np.cos(azimuth), np.sin(altitude), np.cos(altitude) * np.sin(azimuth)])
    overcast = uniform(rng, 0.0, 1.0)
    picture = scene.backdrop(rng, size, camera, place)
    picture = shadow(picture, vehicle, camera, light, 0.6 - 0.35 * overcast, size / 128 * (0.5 + 3 * overcast))
    parts = [*scene.behind(rng, place, radius), *vehicle]
    front: list[Part] = []
    for thing in scene.before(rng, place, min(radius, room * 0.8), room):
        if visible_share(vehicle, [*front, *thing], camera, size) > LEAST_VISIBLE:
            front += thing
    parts += front
    paint(picture, parts, camera, light, 0.42 + 0.3 * overcast)
    return picture


def _view(rng: np.random.Generator, vehicle: list[Part], size: int) -> tuple[Camera, Place]:
    """A camera that sees the vehicle at 35 to 95 % of the picture, from any side, mostly from the quarters."""
    points = np.concatenate([face.points for piece in vehicle for face in piece.faces])
    middle = (points.min(0) + points.max(0)) / 2
    extent = float(np.linalg.norm(points.max(0) - points.min(0)))
    side = float(rng.choice([-1.0, 1.0])) * np.pi / 2
    yaw = side + float(np.clip(rng.normal(0, 0.36), -1.5, 1.5))
    distance = extent * uniform(rng, 1.3, 3.5)
    unit = look(middle, yaw, uniform(rng, 0.02, 0.42), rng.normal(0, 0.05), distance)
    flat, _ = unit.project(points)
    low, high = flat.min(0), flat.max(0)
    share = 0.40 + 0.56 * float(rng.random()) ** 0.4
    zoom = share * size / float((high - low).max())
    spare = np.maximum(size - zoom * (high - low), 0.0) / 2
    centre = size / 2 + rng.uniform(-0.8, 0.8, 2) * spare
    shift = centre - zoom * (low + high) / 2
    camera = Camera(unit.position, unit.axes, zoom, (float(shift[0]), float(shift[1])))
    away = unit.axes[2] * (1.0, 0.0, 1.0)
    right = unit.axes[0] * (1.0, 0.0, 1.0)
    ground = middle * (1.0, 0.0, 1.0)
    frame = size / zoom * distance
    return camera, Place(ground, right / np.linalg.norm(right), away / np.linalg.norm(away), frame)

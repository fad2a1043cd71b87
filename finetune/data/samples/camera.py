"""Solids to pictures: a camera, the order in which parts hide each other, light and shadow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from finetune.data.samples.solid import CAP, DECAL, Colour, Face, Part

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks at a point.

    Attributes:
        position: (3,) metres.
        axes: (3, 3); rows are right, up and forward of the camera.
        zoom: pixels per unit of the tangent of the angle of view.
        shift: (2,) pixels, where the optical axis meets the picture.
    """

    position: Points
    axes: Points
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)

    def project(self, points: Points) -> tuple[Points, Points]:
        """Pixels (n, 2) and depths (n,) in metres of points (n, 3)."""
        seen = (points - self.position) @ self.axes.T
        depth = np.maximum(seen[:, 2], 1e-3)
        flat = seen[:, :2] / depth[:, None] * (self.zoom, -self.zoom) + self.shift
        return flat, seen[:, 2]


def look(target: Points, yaw: float, pitch: float, roll: float, distance: float) -> Camera:
    """A camera at `distance` metres from `target`; angles in radians, yaw 0 sees a vehicle from the front."""
    back = np.array([np.cos(pitch) * np.cos(yaw), np.sin(pitch), np.cos(pitch) * np.sin(yaw)])
    right = np.cross(-back, (0.0, 1.0, 0.0))
    right /= np.linalg.norm(right)
    up = np.cross(right, -back)
    turned = (np.cos(roll) * right + np.sin(roll) * up, np.cos(roll) * up - np.sin(roll) * right)
    return Camera(target + distance * back, np.stack([*turned, -back]))


def painting_order(parts: Sequence[Part], eye: Points) -> list[int]:
    """Indices of `parts` such that what may hide another comes after it.

    Two boxes with a gap on some axis cannot hide each other both ways: seen from `eye`, only the one on the near side
    of the gap can hide the other. Boxes that overlap keep their order. Circles are cut at the farthest part.
    """
    low, high = np.stack([p.low for p in parts]), np.stack([p.high for p in parts])
    apart = high[:, None] <= low[None] + 1e-6
    cannot_hide = ((apart & (eye > high[:, None])) | (apart.transpose(1, 0, 2) & (eye < low[:, None]))).any(2)
    overlap = ~(apart | apart.transpose(1, 0, 2)).any(2)
    first = (cannot_hide & ~cannot_hide.T) | (overlap & np.triu(np.ones(len(parts), dtype=bool), 1))
    distance = np.linalg.norm((low + high) / 2 - eye, axis=1)
    waiting = first.sum(0)
    order: list[int] = []
    left = np.ones(len(parts), dtype=bool)
    while left.any():
        free = np.flatnonzero(left & (waiting == 0))
        at = int(free[0]) if len(free) else int(np.argmax(np.where(left, distance, -1.0)))
        order.append(at)
        left[at] = False
        waiting = waiting - first[at]
    return order


def paint(picture: Image.Image, parts: Sequence[Part], camera: Camera, light: Points, ambient: float) -> None:
    """Draw `parts` into an RGB picture.

    Args:
        picture: changed in place.
        parts: in any order.
        camera: projects metres to pixels of `picture`.
        light: (3,) unit vector towards the light.
        ambient: share of a colour that a face in the shade keeps, 0 to 1.
    """
    pen = ImageDraw.Draw(picture)
    for index in painting_order(parts, camera.position):
        faces = parts[index].faces
        flat, depth = camera.project(np.concatenate([face.points for face in faces]))
        corners, depths = flat.tolist(), depth.tolist()
        cuts: list[tuple[int, float, Face, list[list[float]]]] = []
        start = 0
        for face in faces:
            stop = start + len(face.points)
            if min(depths[start:stop]) > 0.05:
                cuts.append((face.layer, -sum(depths[start:stop]) / (stop - start), face, corners[start:stop]))
            start = stop
        for _, minus_depth, face, outline in sorted(cuts, key=lambda cut: cut[:2]):
            _face(pen, face, outline, camera.zoom / -minus_depth, light, ambient)


def _face(
    pen: ImageDraw.ImageDraw, face: Face, corners: list[list[float]], scale: float, light: Points, ambient: float
) -> None:
    if face.width:
        thick, colour = face.width * scale, _shade(face.colour, 0.6, ambient)
        if len(corners) == 1:
            (x, y), r = corners[0], thick / 2
            pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        else:
            pen.line([(x, y) for x, y in corners], fill=colour, width=max(1, round(thick)), joint="curve")
        return
    # Pixels count downwards, so a face whose corners turn clockwise in numbers is the one that faces the camera.
    after = [*corners[1:], corners[0]]
    if sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(corners, after, strict=True)) >= 0:
        return
    facing = 1.0 if face.glows else max(0.0, _facing(face.points, light))
    colour = _shade(face.colour, facing, ambient)
    outline = _shade(face.colour, facing, 0.7 * ambient) if face.layer == CAP else None
    pen.polygon([(x, y) for x, y in corners], fill=colour, outline=outline)


def _facing(points: Points, light: Points) -> float:
    """Cosine of the angle between the normal of a polygon and the light."""
    lx, ly, lz = light.tolist()
    (ax, ay, az), (bx, by, bz) = (points[1] - points[0]).tolist(), (points[2] - points[0]).tolist()
    x, y, z = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    cosine: float = (x * lx + y * ly + z * lz) / (math.hypot(x, y, z) + 1e-12)
    return cosine


def _shade(colour: Colour, facing: float, ambient: float) -> tuple[int, int, int]:
    strength = ambient + (1.0 - ambient) * facing
    r, g, b = (min(255, int(c * strength)) for c in colour)
    return r, g, b


def shadow(
    picture: Image.Image, parts: Sequence[Part], camera: Camera, light: Points, strength: float, blur: float
) -> Image.Image:
    """The picture with the shadow of `parts` on the ground; `blur` in pixels, `strength` 0 to 1."""
    less = 3  # A shadow is soft: drawn at a third of the size it looks the same.
    mask = Image.new("L", (picture.width // less, picture.height // less), 255)
    _fill(ImageDraw.Draw(mask), parts, camera, int(255 * (1 - strength)), 1 / less, (0.0, 0.0), light)
    mask = mask.filter(ImageFilter.GaussianBlur(blur / less)).resize(picture.size, Image.Resampling.BILINEAR)
    return ImageChops.multiply(picture, Image.merge("RGB", (mask, mask, mask)))


def visible_share(parts: Sequence[Part], hiding: Sequence[Part], camera: Camera, size: int) -> float:
    """How much of `parts` is inside a picture of `size` pixels and not behind `hiding`, 0 to 1."""
    small = 64
    whole, seen = Image.new("L", (2 * small, 2 * small)), Image.new("L", (small, small))
    _fill(ImageDraw.Draw(whole), parts, camera, 255, small / size, (small / 2, small / 2))
    _fill(ImageDraw.Draw(seen), parts, camera, 255, small / size, (0.0, 0.0))
    _fill(ImageDraw.Draw(seen), hiding, camera, 0, small / size, (0.0, 0.0))
    return seen.histogram()[255] / max(1, whole.histogram()[255])


def _fill(
    pen: ImageDraw.ImageDraw, parts: Sequence[Part], camera: Camera, value: int, scale: float,
    shift: tuple[float, float], light: Points | None = None,
) -> None:  # fmt: skip
    """The outline of parts in one value: as the camera sees them or, with a light, their shadow on the ground."""
    for piece in parts:
        points = np.concatenate([face.points for face in piece.faces])
        if light is not None:
            points = points - light * (points[:, 1:2] / max(float(light[1]), 0.2))
        flat, depth = camera.project(points)
        corners = [(x * scale + shift[0], y * scale + shift[1]) for x, y in flat.tolist()]
        start = 0
        for face in piece.faces if depth.min() > 0.05 else []:
            outline = corners[start : start + len(face.points)]
            start += len(face.points)
            thick = face.width * camera.zoom / float(depth[0]) * scale
            if len(outline) == 1:
                (x, y), r = outline[0], thick / 2
                pen.ellipse((x - r, y - r, x + r, y + r), fill=value)
            elif face.width:
                pen.line(outline, fill=value, width=max(1, round(thick)))
            elif face.layer != DECAL:
                pen.polygon(outline, fill=value)


def ground_polygon(corners: Points, camera: Camera, near: float, reach: float) -> list[tuple[float, float]]:
    """Pixels of a polygon cut off outside the view; empty if nothing is left.

    Args:
        corners: (n, 3) metres.
        camera: projects to pixels.
        near: metres in front of the camera at which it is cut off.
        reach: pixels from the optical axis, to the left and to the right, beyond which it is cut off.
    """
    seen = (corners - camera.position) @ camera.axes.T
    slope = reach / camera.zoom
    for normal, offset in (((0.0, 0.0, 1.0), near), ((1.0, 0.0, slope), 0.0), ((-1.0, 0.0, slope), 0.0)):
        seen = _cut(seen, np.array(normal), offset)
        if len(seen) < 3:
            return []
    flat, _ = camera.project(seen @ camera.axes + camera.position)
    return [(x, y) for x, y in flat.tolist()]


def _cut(corners: Points, normal: Points, offset: float) -> Points:
    """The part of a polygon on one side of a plane (one step of Sutherland and Hodgman's clipping)."""
    inside = corners @ normal - offset
    kept: list[Points] = []
    for i in range(len(corners)):
        j = (i + 1) % len(corners)
        if inside[i] >= 0:
            kept.append(corners[i])
        if (inside[i] >= 0) != (inside[j] >= 0):
            kept.append(corners[i] + inside[i] / (inside[i] - inside[j]) * (corners[j] - corners[i]))
    return np.array(kept).reshape(-1, 3)

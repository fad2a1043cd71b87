"""Near-duplicates: the same picture re-encoded, resized, cropped, brighter or mirrored.

Candidates come cheaply, from two sides: small grey thumbnails (a perceptual hash kept in grey levels instead of bits)
and the features of a network, each with its nearest neighbours. A candidate counts once the two pictures agree pixel by
pixel: the correlation of their fine structure, over a search of crops and the mirror image, is near 1. Pictures of the
same kind of thing agree in their features and their broad brightness, but not in their edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import avg_pool2d, grid_sample

SIDE = 64
"""Side of the grey thumbnails, in pixels."""

COARSE = 16
"""Side of the thumbnails that candidates are looked for in."""

NEIGHBOURS = 4
"""Candidates of each image from each side."""

ALIKE = 0.8
"""Correlation of coarse thumbnails from which on two images are a candidate."""

SAME = 0.88
"""Correlation of fine structure from which on two images are the same picture."""

SHARES = (1.0, 0.975, 0.95, 0.925, 0.9)
"""Sides of the crops that are tried, as shares of the picture's."""

Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Pair:
    """Two images that show the same picture.

    Attributes:
        first, second: positions in the table.
        kind: mirrored, cropped, resized, brightness or re-encoded.
        score: correlation of their fine structure, at most 1.
    """

    first: int
    second: int
    kind: str
    score: float


def near_duplicates(grey: Array, features: Array, sizes: list[tuple[int, int]], hashes: list[str]) -> list[Pair]:
    """The pairs of images that show the same picture but are not the same file, best first.

    Args:
        grey: thumbnails of the whole pictures, 0 to 255, float32 [N, SIDE, SIDE].
        features: of a network, float32 [N, features].
        sizes: width and height of each file, in pixels.
        hashes: sha256 of each file; files of one content are left to the audit of duplicates.
    """
    pairs = [(a, b) for a, b in sorted(_candidates(grey, features)) if hashes[a] != hashes[b]]
    found = []
    images = torch.from_numpy(grey)
    for start in range(0, len(pairs), 64):
        chunk = pairs[start : start + 64]
        first, second = images[[a for a, _ in chunk]], images[[b for _, b in chunk]]
        forth, back = _agreement(first, second), _agreement(second, first)
        for row, (a, b) in enumerate(chunk):
            score, moved, mirrored = max(forth[row], back[row])
            if score >= SAME:
                found.append(Pair(a, b, _kind(grey, sizes, a, b, moved, mirrored), score))
    return sorted(found, key=lambda pair: (-pair.score, pair.first, pair.second))


def _candidates(grey: Array, features: Array) -> set[tuple[int, int]]:
    coarse = avg_pool2d(torch.from_numpy(grey)[:, None], SIDE // COARSE)[:, 0]
    flat, mirrored = (_unit(image.flatten(1)) for image in (coarse, coarse.flip(2)))
    vectors = _unit(torch.from_numpy(features))
    found: set[tuple[int, int]] = set()
    for side, other, least in ((flat, flat, ALIKE), (flat, mirrored, ALIKE), (vectors, vectors, 0.5)):
        k = min(NEIGHBOURS + 1, len(side))
        for start in range(0, len(side), 1024):
            values, near = (side[start : start + 1024] @ other.T).topk(k, dim=1)
            for row, (scores, places) in enumerate(zip(values.tolist(), near.tolist(), strict=True), start):
                close = [place for score, place in zip(scores, places, strict=True) if place != row and score >= least]
                found |= {(min(row, place), max(row, place)) for place in close}
    return found


def _agreement(whole: torch.Tensor, part: torch.Tensor) -> list[tuple[float, bool, bool]]:
    """For each pair the best (correlation, cropped, mirrored) of crops of `whole` with all of `part`."""
    boxes = [(share, x, y) for share in SHARES for x in (-1, 0, 1) for y in (-1, 0, 1) if share < 1 or x == y == 0]
    wanted = [_structure(part), _structure(part.flip(2))]
    best = [(-1.0, False, False)] * len(whole)
    for share, x, y in boxes:
        seen = _structure(_crop(whole, share, x * (1 - share), y * (1 - share)))
        for mirrored, target in enumerate(wanted):
            scores = (seen * target).sum(dim=1).tolist()
            best = [max(old, (score, share < 1, bool(mirrored))) for old, score in zip(best, scores, strict=True)]
    return best


def _crop(images: torch.Tensor, share: float, x: float, y: float) -> torch.Tensor:
    """A part of each image at the size of the whole; x and y are its centre, -1 to 1."""
    if share == 1:
        return images
    steps = (torch.arange(SIDE) * 2 + 1) / SIDE - 1
    rows, columns = torch.meshgrid(steps * share + y, steps * share + x, indexing="ij")
    grid = torch.stack((columns, rows), dim=-1).expand(len(images), -1, -1, -1)
    return grid_sample(images[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)[:, 0]


def _structure(images: torch.Tensor) -> torch.Tensor:
    """What is left of images, slightly blurred, without their broad brightness: unit vectors [N, SIDE * SIDE]."""
    blurred = avg_pool2d(images[:, None], 3, 1, 1, count_include_pad=False)
    broad = avg_pool2d(blurred, 13, 1, 6, count_include_pad=False)
    return _unit((blurred - broad)[:, 0, 3:-3, 3:-3].flatten(1))


def _unit(rows: torch.Tensor) -> torch.Tensor:
    centred = rows - rows.mean(dim=1, keepdim=True)
    length: torch.Tensor = centred.norm(dim=1, keepdim=True).clamp_min(1e-6)
    return centred / length


def _kind(grey: Array, sizes: list[tuple[int, int]], a: int, b: int, cropped: bool, mirrored: bool) -> str:
    if mirrored:
        return "mirrored"
    if cropped:
        return "cropped"
    if sizes[a] != sizes[b]:
        return "resized"
    light, dark = sorted((float(grey[a].mean()), float(grey[b].mean())), reverse=True)
    return "brightness" if light - dark > 0.03 * light else "re-encoded"

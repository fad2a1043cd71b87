"""Near-duplicates: the same picture re-encoded, resized, cropped, brighter or mirrored.

Candidates come cheaply, from two sides: small grey thumbnails (a perceptual hash kept in grey levels instead of bits)
and the features of a network, each with its nearest neighbours. A candidate counts once the two pictures agree pixel by
pixel: the correlation of their fine structure, over a search of crops and the mirror image, is near 1. Pictures of the
same kind of thing agree in their features and their broad brightness, but not in their edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

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

SAME = 0.965
"""Correlation of fine structure from which on two images are the same picture."""

WORTH = 0.3
"""Correlation of the fine structure as it lies below which no crop is tried: unrelated pictures stay below 0.2."""

CLOSE = 0.75
"""Correlation after the first search from which on the crop is searched more finely."""

SHARES = (1.0, 0.975, 0.95, 0.925, 0.9)
"""Sides of the crops that are tried, as shares of the picture's."""

FINE = 0.0125
"""Step of the finer search, as a share of the side."""

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
    duplicates = []
    images = torch.from_numpy(grey)
    for start in range(0, len(pairs), 64):
        chunk = pairs[start : start + 64]
        first, second = images[[a for a, _ in chunk]], images[[b for _, b in chunk]]
        # the cheap question first: pictures that do not agree at all as they lie are no crops of each other either
        as_it_lies = torch.tensor([best.score for best in _agreement(first, second, BOXES[:1])])
        near = (as_it_lies >= WORTH).nonzero().flatten().tolist()
        if near:
            # either may be the crop of the other
            forth = _search(first[near], second[near])
            back = _search(second[near], first[near])
            for position, one, other in zip(near, forth, back, strict=True):
                best, (a, b) = max(one, other), chunk[position]
                if best.score >= SAME:
                    duplicates.append(Pair(a, b, _kind(grey, sizes, a, b, best), best.score))
    return sorted(duplicates, key=lambda pair: (-pair.score, pair.first, pair.second))


def _candidates(grey: Array, features: Array) -> set[tuple[int, int]]:
    coarse = avg_pool2d(torch.from_numpy(grey)[:, None], SIDE // COARSE)[:, 0]
    flat, mirrored = (_unit(image.flatten(1)) for image in (coarse, coarse.flip(2)))
    vectors = _unit(torch.from_numpy(features))
    pairs: set[tuple[int, int]] = set()
    # by looks, by looks mirrored, and by what the network sees, which finds crops that look different pixel by pixel
    for side, other, least in ((flat, flat, ALIKE), (flat, mirrored, ALIKE), (vectors, vectors, 0.5)):
        k = min(NEIGHBOURS + 1, len(side))
        for start in range(0, len(side), 1024):
            values, near = (side[start : start + 1024] @ other.T).topk(k, dim=1)
            for row, (scores, places) in enumerate(zip(values.tolist(), near.tolist(), strict=True), start):
                close = [place for score, place in zip(scores, places, strict=True) if place != row and score >= least]
                pairs |= {(min(row, place), max(row, place)) for place in close}
    return pairs


class _Match(NamedTuple):
    """How well a part of one picture agrees with all of another; the best is the greatest."""

    score: float
    share: float = 1.0
    x: float = 0.0
    y: float = 0.0
    mirrored: bool = False


BOXES = [(share, x * (1 - share), y * (1 - share)) for share in SHARES for x in (-1, 0, 1) for y in (-1, 0, 1)]
"""Crops that are tried: share of the side, and centre from -1 to 1; the first is the whole picture."""


def _search(whole: torch.Tensor, part: torch.Tensor) -> list[_Match]:
    """For each pair the best crop of `whole`, searched more finely where the pictures nearly agree."""
    matches = _agreement(whole, part, BOXES[8:])
    for row, best in enumerate(matches):
        if best.score >= CLOSE and best.share < 1:
            steps = (-FINE, 0.0, FINE)
            shares = [best.share + step for step in steps]
            boxes = [(share, best.x + 2 * x, best.y + 2 * y) for share in shares for x in steps for y in steps]
            matches[row] = max(best, *_agreement(whole[row : row + 1], part[row : row + 1], boxes))
    return matches


def _agreement(whole: torch.Tensor, part: torch.Tensor, boxes: list[tuple[float, float, float]]) -> list[_Match]:
    """For each pair the best match of a crop of `whole`, one of `boxes`, with all of `part` or its mirror image."""
    targets = [_structure(part), _structure(part.flip(2))]
    best = [_Match(-1.0)] * len(whole)
    for share, x, y in boxes:
        cropped = _structure(_crop(whole, share, x, y))
        for mirrored, target in enumerate(targets):
            scores = (cropped * target).sum(dim=1).tolist()
            matches = [_Match(score, share, x, y, bool(mirrored)) for score in scores]
            best = [max(pair) for pair in zip(best, matches, strict=True)]
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
    """Images as unit vectors [N, SIDE * SIDE], slightly blurred and without their broad brightness."""
    blurred = avg_pool2d(images[:, None], 3, 1, 1, count_include_pad=False)
    # left in, the broad brightness would make two skies correlate, whatever stands below them
    broad = avg_pool2d(blurred, 13, 1, 6, count_include_pad=False)
    return _unit((blurred - broad)[:, 0, 3:-3, 3:-3].flatten(1))


def _unit(rows: torch.Tensor) -> torch.Tensor:
    centred = rows - rows.mean(dim=1, keepdim=True)
    length: torch.Tensor = centred.norm(dim=1, keepdim=True).clamp_min(1e-6)
    return centred / length


def _kind(grey: Array, sizes: list[tuple[int, int]], a: int, b: int, best: _Match) -> str:
    if best.mirrored:
        return "mirrored"
    if best.share < 0.99:
        return "cropped"
    if sizes[a] != sizes[b]:
        return "resized"
    light, dark = sorted((float(grey[a].mean()), float(grey[b].mean())), reverse=True)
    return "brightness" if light - dark > 0.03 * light else "re-encoded"

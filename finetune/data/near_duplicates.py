"""Near-duplicates: the same picture re-encoded, resized, cropped, brighter or mirrored.

Candidates come cheaply, from two sides: small grey thumbnails (a perceptual hash kept in grey levels instead of bits)
and the features of a network, each with its nearest neighbours. A candidate counts once the two pictures agree pixel by
pixel: the correlation of their fine structure, over a search of crops and the mirror image, is near 1. Pictures of the
same kind of thing agree in their features and their broad brightness, but not in their edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import avg_pool2d

SIDE = 64
"""Side of the grey thumbnails, in pixels; the small ones have half of it."""

SLIGHT, WIDE, MARGIN = 1, 6, 3
"""Reach of the slight blur and of the broad one, and the border that no comparison uses, in pixels of a thumbnail; the
slight one is as many pixels in a smaller one, which makes up for crops that are tried a pixel off."""

COARSE = 16
"""Side of the thumbnails that candidates are looked for in."""

NEIGHBOURS = 4
"""Candidates of each image from each side."""

ALIKE = 0.8
"""Correlation of coarse thumbnails from which on two images are a candidate."""

SAME = 0.965
"""Correlation of fine structure from which on two images are the same picture."""

WORTH = 0.5
"""Correlation of the small thumbnails as they lie below which no crop is tried."""

ROUGHLY = 0.9
"""Correlation of the small thumbnails from which on those of full size are compared."""

CLOSE = 0.87
"""Correlation after the first search from which on the crop is searched more finely: that adds up to 0.08."""

SHARES = (0.975, 0.95, 0.925, 0.9)
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
    small = avg_pool2d(images, 2)
    for start in range(0, len(pairs), 64):
        chunk = torch.tensor(pairs[start : start + 64])
        # the cheap question first: pictures that do not agree at all as they lie are no crops of each other either
        as_it_lies = _agreement(small[chunk[:, 0]], small[chunk[:, 1]], [WHOLE])
        near = chunk[torch.tensor([best.score for best in as_it_lies]) >= WORTH]
        # either may be the crop of the other
        forth, back = _search(images, small, near), _search(images, small, near.flip(1))
        for (first, second), *found in zip(near.tolist(), forth, back, strict=True):
            best = max(found)
            if best.score >= SAME:
                duplicates.append(Pair(first, second, _kind(grey, sizes, first, second, best), best.score))
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


Box = tuple[float, float, float]
"""A crop: share of the side, and its centre from -1 to 1, x and y."""

WHOLE: Box = (1.0, 0.0, 0.0)

BOXES = [WHOLE] + [
    (share, x * (1 - share), y * (1 - share)) for share in SHARES for x in (-1, 0, 1) for y in (-1, 0, 1)
]
"""Crops that are tried; the first is the whole picture."""


def _search(images: torch.Tensor, small: torch.Tensor, pairs: torch.Tensor) -> list[_Match]:
    """The best crop of the first image of each pair: looked for in small, where that is good at full size, then finely.

    Args:
        images: float32 [N, SIDE, SIDE].
        small: the same at half the side.
        pairs: int64 [P, 2], places in them.
    """
    matches = _agreement(small[pairs[:, 0]], small[pairs[:, 1]], BOXES) if len(pairs) else []
    for row, best in enumerate(matches):
        whole, part = (images[place][None] for place in pairs[row])
        if best.score >= ROUGHLY:
            best = matches[row] = _agreement(whole, part, BOXES)[0]
        if best.score >= CLOSE and best.share < 1:
            steps = (-FINE, 0.0, FINE)
            shares = [best.share + step for step in steps]
            boxes = [(share, best.x + 2 * x, best.y + 2 * y) for share in shares for x in steps for y in steps]
            matches[row] = max(best, *_agreement(whole, part, boxes))
    return matches


def _agreement(whole: torch.Tensor, part: torch.Tensor, boxes: list[Box]) -> list[_Match]:
    """For each pair the best match of a crop of `whole`, one of `boxes`, with all of `part` or its mirror image."""
    targets = torch.stack([_structures(image, [WHOLE])[:, 0] for image in (part, part.flip(2))], dim=2)
    scores = (_structures(whole, boxes) @ targets).flatten(1)  # [pairs, boxes * 2]
    best, places = scores.max(dim=1)
    matches = []
    for score, place in zip(best.tolist(), places.tolist(), strict=True):
        share, x, y = boxes[place // 2]
        matches.append(_Match(score, share, x, y, bool(place % 2)))
    return matches


def _structures(images: torch.Tensor, boxes: list[Box]) -> torch.Tensor:
    """The fine structure of crops of square images, without their border: unit vectors [images, boxes, pixels].

    A crop, at the size of the whole, is blurred slightly, and its broad brightness is taken off: left in, it would make
    two skies correlate, whatever stands below them. All of that is linear, rows and columns each by themselves.
    """
    side = images.shape[-1]
    down = list(dict.fromkeys((share, y) for share, _, y in boxes))  # many crops share their rows
    place = [down.index((share, y)) for share, _, y in boxes]
    blurred, broad = (
        (torch.stack([_filters(side, *rows)[kind] for rows in down]) @ images[:, None])[:, place]
        @ torch.stack([_filters(side, share, x)[kind] for share, x, _ in boxes]).mT
        for kind in (0, 1)
    )
    found = (blurred - broad).flatten(2)
    return _unit(found.flatten(0, 1)).view_as(found)


@lru_cache(maxsize=1024)
def _filters(side: int, share: float, centre: float) -> tuple[torch.Tensor, torch.Tensor]:
    """What crops a row of `side` pixels and blurs it slightly, and what does so broadly, as matrices [pixels, side]."""
    wide, margin = WIDE * side // SIDE, MARGIN * side // SIDE
    slightly = _means(side, SLIGHT) @ _cropped(side, share, centre)
    return slightly[margin : side - margin], (_means(side, wide) @ slightly)[margin : side - margin]


def _cropped(side: int, share: float, centre: float) -> torch.Tensor:
    """What takes a part of a row of pixels at the size of the whole, bilinearly; its centre from -1 to 1."""
    steps = (torch.arange(side) * 2 + 1) / side - 1
    places = (((steps * share + centre + 1) * side - 1) / 2).clamp(0, side - 1)
    return (1 - (places[:, None] - torch.arange(side)).abs()).clamp_min(0)


def _means(side: int, reach: int) -> torch.Tensor:
    """What replaces each pixel of a row by the mean of those within reach, fewer at the edges."""
    places = torch.arange(side)
    near = ((places[:, None] - places).abs() <= reach).float()
    return near / near.sum(dim=1, keepdim=True)


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

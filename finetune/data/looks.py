"""Measures of whole pictures without a network: thumbnails, sharpness, borders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from finetune.data.near_duplicates import SIDE

Array = np.ndarray[Any, np.dtype[np.float32]]

TINY = 32
"""Short side in pixels below which a picture shows too little."""

LONG = 5.0
"""Long side by short side above which a picture is a strip."""

BLURRED = 0.02
"""Sharpness below this share of the median is blurred."""

STRIP = 0.06
"""Width of the border that is probed, as a share of the side."""


@dataclass(frozen=True)
class Looks:
    """Thumbnail, sharpness and borders of each picture.

    Attributes:
        grey: thumbnails, 0 to 255, float32 [N, SIDE, SIDE].
        sharpness: variance of the Laplacian, float32 [N].
        border: mean and spread of each channel in the four strips along the border, float32 [N, 24].
    """

    grey: Array
    sharpness: Array
    border: Array


def look(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The fields of `Looks` for a batch, uint8 [B, H, W, C]."""
    floats = pixels.permute(0, 3, 1, 2).float()
    if floats.shape[1] == 1:
        floats = floats.expand(-1, 3, -1, -1)
    grey = (floats * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(dim=1)
    laplacian = (
        4 * grey[:, 1:-1, 1:-1] - grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1] - grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]
    )
    down, across = (max(1, round(STRIP * side)) for side in floats.shape[2:])
    strips = (floats[:, :, :down], floats[:, :, -down:], floats[:, :, :, :across], floats[:, :, :, -across:])
    border = torch.cat([part for s in strips for part in (s.mean(dim=(2, 3)), s.std(dim=(2, 3)))], dim=1)
    return adaptive_avg_pool2d(grey[:, None], SIDE)[:, 0], laplacian.flatten(1).var(dim=1), border


def off_images(looks: Looks, sizes: list[tuple[int, int]]) -> dict[str, list[int]]:
    """Problem (tiny, strip or blurred) → positions of the pictures."""
    short = np.array([min(size) for size in sizes])
    ratio = np.array([max(size) for size in sizes]) / np.maximum(short, 1)
    blurred = looks.sharpness < BLURRED * np.median(looks.sharpness)
    kinds = {"tiny": short < TINY, "far longer than wide": ratio > LONG, "blurred": blurred & (short >= TINY)}
    return {what: np.flatnonzero(rows).tolist() for what, rows in kinds.items() if rows.any() and rows.mean() < 0.5}


def outliers(features: Array, most: int = 5, k: int = 5, far: float = 8.0) -> list[tuple[int, float]]:
    """Images that are like no others, farthest first: (position, how many usual spreads beyond the median).

    Args:
        features: float32 [N, features].
        most: how many at most.
        k: neighbours whose mean cosine distance counts.
        far: spreads (median absolute deviation × 1.4826) from which on an image is an outlier.
    """
    if len(features) < 50:
        return []
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    distance = np.empty(len(unit))
    for start in range(0, len(unit), 1024):
        close = np.partition(-(unit[start : start + 1024] @ unit.T), k, axis=1)[:, : k + 1]
        distance[start : start + 1024] = 1 + np.sort(close, axis=1)[:, 1:].mean(axis=1)
    median = np.median(distance)
    spread = 1.4826 * np.median(np.abs(distance - median)) + 1e-9
    beyond = (distance - median) / spread
    order = np.argsort(-beyond)[:most]
    return [(int(index), float(beyond[index])) for index in order if beyond[index] > far]

"""Fisher's linear discriminant with one covariance for all classes, shrunk towards the identity.

The classes share the covariance S within them, so that with few images a class the others tell how features vary. With
d dimensions that is far too many numbers for some hundred images; S is therefore mixed with a multiple of the identity,
(1 - a) S + a tr(S)/d I (Friedman 1989, "Regularized discriminant analysis"). Everything needed are sums: of the rows, a
class each, and of their squares. They are gathered fold by fold in blocks of rows, so memory does not grow with the
number of images, and what is left when a fold is held out is a subtraction.

Why a subtraction is enough: the moments are plain sums over rows, so those of all rows but a fold are the difference
of two sums, and ten folds cost one pass over the rows, not ten.

What would break it: single precision (the sums of squares lose half of their digits when the means are taken off, so
everything is float64), more dimensions than rows (the covariance would have no inverse: shrinkage gives it one, and
`Rows` works in the space that the rows span), and features on scales of their own (`Scale`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

BLOCK = 4096
"""Rows that are turned into float64 at a time."""

LEAST = 1e-9
"""Share of the total variance below which there is none within the classes, as where each has a single image."""


@dataclass(frozen=True)
class Scale:
    """How raw features become comparable numbers: (x - mean) / spread, each float64 [D].

    A feature is divided by its own deviation, but by no less than the root mean square of those of its group: one that
    hardly varied in training would otherwise explode on a picture in which it does. Groups, as of several stages, are
    scaled to the same total variance.
    """

    mean: torch.Tensor
    spread: torch.Tensor

    @classmethod
    def of(cls, features: np.ndarray, widths: tuple[int, ...]) -> Scale:
        """The scale of features [N, D] that consist of groups of these widths, side by side."""
        total = torch.zeros(features.shape[1], dtype=torch.float64)
        for block in _blocks(features):
            total += block.sum(dim=0)
        mean, squares = total / len(features), torch.zeros_like(total)
        for block in _blocks(features):
            squares += (block - mean).square().sum(dim=0)
        variance = squares / len(features)
        spread = torch.ones_like(mean)
        for group in _slices(widths):
            floor = float(variance[group].mean()) ** 0.5
            size = ((group.stop - group.start) * len(widths) / features.shape[1]) ** 0.5
            spread[group] = torch.clamp(variance[group].sqrt(), min=floor) * size
        spread[spread == 0] = 1.0  # what never varies is 0 after the mean is taken off
        return cls(mean, spread)

    def apply(self, rows: torch.Tensor) -> torch.Tensor:
        """Raw rows, float64 [N, D], as comparable ones."""
        return (rows - self.mean) / self.spread

    def fold_in(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A head for scaled rows, [K, D] and [K], as one for raw ones."""
        weight = weight / self.spread
        return weight, bias - weight @ self.mean


class Rows:
    """Rows ready for the discriminant: scaled, and in no more dimensions than there are rows.

    With fewer rows than features all that matters happens in the space that the rows span: the rows as coordinates in
    an orthonormal basis of it (a QR decomposition) give the same head, at a fraction of the work.

    Args:
        features: float32 [N, D].
        widths: of the groups that the features consist of.
    """

    def __init__(self, features: np.ndarray, widths: tuple[int, ...]) -> None:
        self.scale = Scale.of(features, widths)
        self._features = features
        self._basis: torch.Tensor | None = None
        self._rows: torch.Tensor | None = None
        if len(features) < features.shape[1]:
            scaled = self.scale.apply(torch.from_numpy(features).to(torch.float64))
            self._basis, upper = torch.linalg.qr(scaled.T)
            self._rows = upper.T.contiguous()
        self.dimensions = min(features.shape)

    def take(self, row_numbers: np.ndarray) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Blocks of the rows at `places`, int64: which ones, and the rows, float64 [B, dimensions]."""
        for start in range(0, len(row_numbers), BLOCK):
            block = row_numbers[start : start + BLOCK]
            if self._rows is not None:
                yield block, self._rows[torch.from_numpy(block)]
            else:
                yield block, self.scale.apply(torch.from_numpy(self._features[block]).to(torch.float64))

    def head(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A head for these rows, [K, dimensions] and [K], as one for the raw features, float64 [K, D] and [K]."""
        if self._basis is not None:
            weight = weight @ self._basis.T
        return self.scale.fold_in(weight, bias)


@dataclass
class Moments:
    """Sums over some rows; those of all but a fold are the difference of two.

    Attributes:
        counts: rows of each class, float64 [K].
        weights: the sum of their weights, float64 [K].
        sums: weighted sum of the rows of each class, float64 [K, D].
        squares: weighted sum of their outer products, float64 [D, D].
    """

    counts: torch.Tensor
    weights: torch.Tensor
    sums: torch.Tensor
    squares: torch.Tensor

    @classmethod
    def of(cls, rows: Rows, row_numbers: np.ndarray, labels: np.ndarray, class_weights: np.ndarray) -> Moments:
        """The sums over the rows at `places`.

        Args:
            rows: all of them.
            places: int64, which.
            labels: int64 [N], of all rows.
            class_weights: float64 [K].
        """
        classes, size = len(class_weights), rows.dimensions
        sums, squares = (
            torch.zeros((classes, size), dtype=torch.float64),
            torch.zeros((size, size), dtype=torch.float64),
        )
        for block, values in rows.take(row_numbers):
            weighted = values * torch.from_numpy(class_weights[labels[block]])[:, None]
            sums.index_add_(0, torch.from_numpy(labels[block]), weighted)
            squares.addmm_(weighted.T, values)
        counts = torch.from_numpy(np.bincount(labels[row_numbers], minlength=classes).astype(np.float64))
        return cls(counts, counts * torch.from_numpy(class_weights), sums, squares)

    def without(self, other: Moments) -> Moments:
        """The sums over the rows that are in these and not in `other`."""
        return Moments(
            self.counts - other.counts,
            self.weights - other.weights,
            self.sums - other.sums,
            self.squares - other.squares,
        )


class Discriminant:
    """The heads that some rows give, a head for each strength of shrinkage.

    A class without a row is put where the mean of all rows is, with the share of half an image: nothing is known of it.
    """

    def __init__(self, moments: Moments) -> None:
        present = moments.counts > 0
        total = float(moments.weights.sum())
        self._means = moments.sums / moments.weights.clamp(min=1e-300)[:, None]
        self._means[~present] = moments.sums.sum(dim=0) / total
        self.log_shares = torch.log(moments.weights.clamp(min=0.5 * total / float(moments.counts.sum())) / total)
        within = moments.squares - (self._means.T * (moments.weights * present)) @ self._means
        rows, classes = float(moments.counts.sum()), int(present.sum())
        within *= rows / (total * max(1.0, rows - classes))
        self._size = within.shape[0]
        within_variance = float(within.diagonal().sum()) / self._size
        total_variance = float(moments.squares.diagonal().sum()) / total / self._size
        if (
            within_variance <= LEAST * total_variance
        ):  # single images: their distances from each other are all there is to go by
            within, within_variance = torch.zeros_like(within), total_variance
        self._within, self._spread = within, max(within_variance, 1e-300)

    def head(self, shrinkage: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight, float64 [K, D], and bias, float64 [K], of the head for a strength of shrinkage from 0 to 1."""
        covariance = (1 - shrinkage) * self._within
        covariance.diagonal().add_(shrinkage * self._spread)
        factor = torch.linalg.cholesky(covariance)
        weight = torch.cholesky_solve(self._means.T.contiguous(), factor).T.contiguous()
        return weight, self.log_shares - (weight * self._means).sum(dim=1) / 2


def _blocks(features: np.ndarray) -> Iterator[torch.Tensor]:
    for start in range(0, len(features), BLOCK):
        yield torch.from_numpy(features[start : start + BLOCK]).to(torch.float64)


def _slices(widths: tuple[int, ...]) -> Iterator[slice]:
    start = 0
    for width in widths:
        yield slice(start, start + width)
        start += width

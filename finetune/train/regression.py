"""The head by convex optimisation: multinomial logistic regression on the values that cross the freeze line.

With the backbone frozen and a linear head, training is a convex problem: it has one solution, found exactly by L-BFGS
without a learning rate. Features are scaled for it (the scales fold back into the head's weights), and the strength of
the regularisation is chosen on the validation images.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from finetune.evaluate.metrics import epoch_metrics
from finetune.train.discriminant import Scale
from finetune.train.head_solver import require_finite

STRENGTHS: Sequence[float] = tuple(10.0**power for power in range(-5, 2))
"""Values of C, scikit-learn's inverse strength of regularisation, from strong to weak; the first of equals is kept."""

ITERATIONS = 300
"""Of L-BFGS at each strength, from the solution of the one before."""


@dataclass(frozen=True)
class Regression:
    """A linear head.

    Attributes:
        weight: float32 [classes, features].
        bias: float32 [classes].
        strength: the chosen C.
        iterations: of L-BFGS, over all strengths.
        val: val_loss, val_accuracy and val_macro_f1 of this head.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    strength: float
    iterations: int
    val: dict[str, float]

    @property
    def summary(self) -> str:
        """A line for people."""
        return f"head solved exactly by logistic regression ({self.iterations} iterations, C = {self.strength:g})"


def solve_regression(
    features: np.ndarray,
    labels: np.ndarray,
    val_features: np.ndarray,
    val_labels: np.ndarray,
    widths: tuple[int, ...],
    class_weights: Sequence[float] | None = None,
) -> Regression:
    """The best head, by validation loss, over all `STRENGTHS`.

    Args:
        features: float32 [N, features] of the training images, a row a view.
        labels: int64 [N]; every class occurs.
        val_features: float32 [M, features].
        val_labels: int64 [M].
        widths: of the groups that the features consist of.
        class_weights: weight of each class in the loss.

    Raises:
        DivergedError: some feature is not finite.
    """
    require_finite(features)
    require_finite(val_features)
    scale = Scale.of(features, widths)
    # one strength of regularisation for all features needs them on one scale
    scaled = scale.apply(torch.from_numpy(features).double()).float().numpy()
    best: Regression | None = None
    iterations = 0
    for strength, taken, slope, offset in _regressions(scaled, labels, class_weights):
        iterations += taken
        weight, bias = _folded(slope, offset, scale)
        val = epoch_metrics(val_labels, val_features @ weight.numpy().T + bias.numpy())
        if best is None or val["val_loss"] < best.val["val_loss"]:
            best = Regression(weight, bias, strength, iterations, val)
    assert best is not None
    return replace(best, iterations=iterations)


def _regressions(
    scaled: np.ndarray, labels: np.ndarray, class_weights: Sequence[float] | None
) -> Iterator[tuple[float, int, np.ndarray, np.ndarray]]:
    """Strength, iterations, weight and bias at each of `STRENGTHS`, from where the one before came to."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression  # a second to import, and few runs need it

    weights = None if class_weights is None else dict(enumerate(class_weights))
    model = LogisticRegression(warm_start=True, max_iter=ITERATIONS, tol=1e-4, class_weight=weights)
    for strength in STRENGTHS:
        model.set_params(C=strength)
        with warnings.catch_warnings():
            # weakly regularised problems on separable data have their optimum far out: close enough will do
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(scaled, labels)
        yield strength, int(model.n_iter_.max()), model.coef_, model.intercept_


def _folded(weight: np.ndarray, bias: np.ndarray, scale: Scale) -> tuple[torch.Tensor, torch.Tensor]:
    """A head for scaled features as one for features as they are: float32 [classes, features] and [classes]."""
    if len(weight) == 1:  # two classes: one row whose sign tells them apart
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    folded = scale.fold_in(torch.from_numpy(weight).double(), torch.from_numpy(bias).double())
    return folded[0].float(), folded[1].float()

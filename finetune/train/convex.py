"""The head by convex optimisation: multinomial logistic regression on the values that cross the freeze line.

With the backbone frozen and a linear head, training is a convex problem: it has one solution, found exactly by L-BFGS
without a learning rate. Features are standardised for it (the scales fold back into the head's weights), and the
strength of the regularisation is chosen on the validation images.

With few images of some class another estimate of the same head can be better: Fisher's linear discriminant, its
covariance shrunk (Ledoit and Wolf 2004), which takes from all classes together how features vary. `auto` looks at both.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from scipy import linalg
from sklearn.covariance import ledoit_wolf
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import nn

from finetune.errors import DivergedError, UsageError
from finetune.evaluate.metrics import quick
from finetune.model.cut import Cut
from finetune.model.freeze import owner
from finetune.model.plan import Phase
from finetune.train.state import Settings

STRENGTHS: Sequence[float] = tuple(10.0**power for power in range(-5, 2))
"""Values of C, scikit-learn's inverse strength of regularisation, from strong to weak; the first of equals is kept."""

ITERATIONS = 300
"""Of L-BFGS at each strength, from the solution of the one before."""

SHARPNESS: Sequence[float] = tuple(2.0 ** (power / 4) for power in range(-20, 5))
"""Factors of a discriminant's logits, which are mostly too sure; the best on validation is taken."""

MOST_FEATURES = 2048
"""Numbers an image up to which a discriminant is looked for: its time grows with their square, and with their cube."""

STILL = 1e-6
"""Standard deviation, as a share of a feature's size, up to which it does not vary: more than rounding in float32."""

Head = tuple[float | None, int, np.ndarray, np.ndarray]
"""C, iterations that it took, and weight and bias for standardised features."""


@dataclass(frozen=True)
class Solution:
    """A linear head.

    Attributes:
        weight: float32 [classes, features].
        bias: float32 [classes].
        strength: the chosen C; None for a discriminant.
        iterations: of L-BFGS, over all strengths.
        val: val_loss, val_accuracy and val_macro_f1 of this head.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    strength: float | None
    iterations: int
    val: dict[str, float]

    @property
    def summary(self) -> str:
        """A line for people."""
        best = "the linear discriminant" if self.strength is None else f"C = {self.strength:g}"
        return f"solved in {self.iterations} iterations of L-BFGS; {best} is best on validation"

    def put_into(self, layer: nn.Linear, features: np.ndarray, labels: np.ndarray) -> float:
        """Make these the weights of `layer`; returns the mean loss on `features`, float32 [N, features]."""
        with torch.no_grad():
            layer.weight.copy_(self.weight)
            layer.bias.copy_(self.bias)
        return quick(labels, features @ self.weight.numpy().T + self.bias.numpy())["val_loss"]


def linear_layer(module: nn.Module, learning: Collection[str]) -> nn.Linear | None:
    """The one linear layer with bias whose parameters are exactly those that learn, if there is one."""
    names = {owner(name) for name in learning}
    layer = module.get_submodule(names.pop()) if len(names) == 1 else None
    return layer if isinstance(layer, nn.Linear) and layer.bias is not None and len(learning) == 2 else None


def choose_optimizer(module: nn.Module, phase: Phase, settings: Settings, cut: Cut) -> str:
    """adamw, adam, sgd, or lbfgs: what a phase is trained by. For `auto` it is solved where it can be, else adamw.

    Raises:
        UsageError: lbfgs is asked for, and cannot be.
    """
    if settings.optimizer not in ("lbfgs", "auto"):
        return settings.optimizer
    problem = _not_solvable(module, phase, settings) or _not_visible(module, phase, cut)
    if problem is None:
        return "lbfgs"
    if settings.optimizer == "auto":
        return "adamw"
    raise UsageError(*problem)


def require_solvable(module: nn.Module, phases: Iterable[Phase], settings: Settings) -> None:
    """Refuse a run before its first epoch that `lbfgs` could not finish.

    Raises:
        UsageError: lbfgs is asked for, and some phase is no convex problem.
    """
    for phase in phases if settings.optimizer == "lbfgs" else ():
        problem = _not_solvable(module, phase, settings)
        if problem is not None:
            raise UsageError(*problem)


def _not_solvable(module: nn.Module, phase: Phase, settings: Settings) -> tuple[str, str] | None:
    """Why a phase is no convex problem, and what to do about it; None where it is one."""
    if linear_layer(module, phase.learning) is None:
        return (
            f"train.optimizer: lbfgs trains a linear head on a frozen backbone; {phase.title} lets more learn",
            "use -o 'model.unfreeze={head: 0}' with head: linear, or optimizer: auto",
        )
    if settings.loss != "cross_entropy" or settings.label_smoothing:
        return "train.loss: lbfgs knows cross_entropy without label smoothing only", "use optimizer: adamw"
    return None


def _not_visible(module: nn.Module, phase: Phase, cut: Cut) -> tuple[str, str] | None:
    """Why the features below the head cannot be had as a table, and what to do about it; None where they can."""
    layer = linear_layer(module, phase.learning)
    if cut.whole or layer is None or cut.bytes_per_image != 4 * layer.in_features:
        return "train.optimizer: lbfgs cannot see what reaches the head of this network", "use optimizer: adamw"
    return None


def solve(
    features: np.ndarray,
    labels: np.ndarray,
    val_features: np.ndarray,
    val_labels: np.ndarray,
    class_weights: Sequence[float] | None = None,
    *,
    discriminant: bool = False,
) -> Solution:
    """The best head, by validation loss, over all `STRENGTHS` of logistic regression.

    Args:
        features: float32 [N, features] of the training images, a row a view.
        labels: int64 [N]; every class occurs.
        val_features: float32 [M, features].
        val_labels: int64 [M].
        class_weights: weight of each class in the loss.
        discriminant: whether a linear discriminant may be the head as well, if it has the lowest loss.

    Raises:
        DivergedError: some feature is not finite.
    """
    for name, values in (("training", features), ("validation", val_features)):
        if broken := int((~np.isfinite(values).all(axis=1)).sum()):
            raise DivergedError(
                f"train.precision: the frozen layers give no finite features for {broken:,} {name} images",
                "use train.precision: fp32; if that is what it was, the weights or model.preprocess are to blame",
            )
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    spread = features.std(axis=0, dtype=np.float64).astype(np.float32)
    still = spread <= STILL * np.abs(mean)
    spread[still] = 1.0
    scaled = (features - mean) / spread
    scaled[:, still] = 0.0  # what never varies says nothing: its weight stays 0
    best: Solution | None = None
    iterations = 0
    heads: Iterable[Head] = _regressions(scaled, labels, class_weights)
    if discriminant:
        heads = chain(heads, _discriminants(scaled, labels, class_weights))
    for strength, taken, slope, offset in heads:
        iterations += taken
        weight, bias = _folded(slope, offset, mean, spread)
        val = quick(val_labels, val_features @ weight.T + bias)
        if best is None or val["val_loss"] < best.val["val_loss"]:
            best = Solution(torch.from_numpy(weight), torch.from_numpy(bias), strength, iterations, val)
    assert best is not None
    return replace(best, iterations=iterations)


def _regressions(scaled: np.ndarray, labels: np.ndarray, class_weights: Sequence[float] | None) -> Iterator[Head]:
    """Logistic regression at each of `STRENGTHS`, from where the one before came to."""
    weights = None if class_weights is None else dict(enumerate(class_weights))
    model = LogisticRegression(warm_start=True, max_iter=ITERATIONS, tol=1e-4, class_weight=weights)
    for strength in STRENGTHS:
        model.set_params(C=strength)
        with warnings.catch_warnings():
            # weakly regularised problems on separable data have their optimum far out: close enough is judged like all
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(scaled, labels)
        yield strength, int(model.n_iter_.max()), model.coef_, model.intercept_


def _discriminants(scaled: np.ndarray, labels: np.ndarray, class_weights: Sequence[float] | None) -> Iterator[Head]:
    """Fisher's linear discriminant at each of `SHARPNESS`; nothing where there is none to be had.

    As scikit-learn's LinearDiscriminantAnalysis with `shrinkage="auto"`, the covariance shrunk class by class, but
    without a singular value decomposition, which takes most of its time. The weight of a class counts as so many more
    images of it.
    """
    if scaled.shape[1] > MOST_FEATURES:
        return
    shares = np.bincount(labels) * (1.0 if class_weights is None else np.asarray(class_weights))
    shares /= shares.sum()
    means, covariance = np.empty((len(shares), scaled.shape[1])), np.zeros((scaled.shape[1],) * 2)
    for label, share in enumerate(shares):
        rows = scaled[labels == label].astype(np.float64)
        means[label], spread = rows.mean(axis=0), rows.std(axis=0)
        spread[spread <= STILL] = 1.0
        if len(rows) > 1:
            shrunk, _ = ledoit_wolf((rows - means[label]) / spread, assume_centered=True)
            covariance += share * shrunk * np.outer(spread, spread)
    with warnings.catch_warnings():
        warnings.simplefilter("error", linalg.LinAlgWarning)
        try:
            weight = linalg.solve(covariance, means.T, assume_a="pos").T
        except (linalg.LinAlgError, linalg.LinAlgWarning):  # as where each class has a single image
            return
    bias = np.log(shares) - (weight * means).sum(axis=1) / 2
    yield from ((None, 0, sharpness * weight, sharpness * bias) for sharpness in SHARPNESS)


def _folded(
    weight: np.ndarray, bias: np.ndarray, mean: np.ndarray, spread: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A head for standardised features as one for features as they are: float32 [classes, features] and [classes]."""
    if len(weight) == 1:  # two classes: one row whose sign tells them apart
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / spread
    return weight.astype(np.float32), (bias - weight @ mean).astype(np.float32)

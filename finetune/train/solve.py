"""A phase in which the head is solved instead of trained: its rows, its answers out of fold, its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from finetune.evaluate.metrics import epoch_metrics
from finetune.files import visible
from finetune.model.network import Network
from finetune.model.stages import StagesHead
from finetune.train.folds import same_things
from finetune.train.head_solver import FEW, Solved, solve_head
from finetune.train.out_of_fold import OutOfFold
from finetune.train.phase import PhaseLearner
from finetune.train.phase_data import PhaseData
from finetune.train.regression import solve_regression
from finetune.train.smaller_sets import BySize, answers_by_size, unsuitable
from finetune.train.solvable import linear_layer


@dataclass(frozen=True)
class SolvedPhase:
    """The outcome of solving the head of a phase; the weights are in the head already.

    Attributes:
        train_loss: mean loss of the images that it learned from.
        images: how many those are, a view counted as one.
        out_of_fold: answers to the training images and then to those of validation; None where it learned from
            training images only, so that those of validation can be answered by the head itself.
        summary: lines for people.
    """

    train_loss: float
    images: int
    out_of_fold: OutOfFold | None
    summary: list[str]


def solve_phase(network: Network, learner: PhaseLearner, data: PhaseData, tick: Callable[[], None]) -> SolvedPhase:
    """Put the best head into the network: the discriminant, or with `lbfgs` logistic regression.

    Args:
        network: as the phase found it.
        learner: of the phase; it says whether the head may learn from the images of validation, too.
        data: of the phase.
        tick: called now and then; may raise to stop.

    Raises:
        DivergedError: some feature is not finite.
    """
    layer = linear_layer(network.module, learner.phase.learning)
    assert layer is not None  # else it would not be solved
    settings, refit, classes = learner.settings, learner.learns_from_val, network.classes
    train, val = data.train.source.images, data.val.source.images
    features, row_images, val_features = data.all_features()
    labels = train.labels[row_images]
    widths = (*layer.widths.values(), layer.last) if isinstance(layer, StagesHead) else (layer.in_features,)
    if settings.optimizer == "lbfgs":
        regression = solve_regression(features, labels, val_features, val.labels, widths, settings.class_weights)
        loss = _put_into_head(layer, regression.weight, regression.bias, features, labels)
        return SolvedPhase(loss, len(labels), None, [regression.summary])
    units = same_things([*train.units, *val.units] if refit else train.units)
    image_of_row = row_images
    if refit:
        features, labels = np.concatenate([features, val_features]), np.concatenate([labels, val.labels])
        image_of_row = np.concatenate([row_images, len(train) + np.arange(len(val))])
    solved = solve_head(
        features,
        labels,
        units[image_of_row],
        widths,
        classes=len(classes),
        class_weights=settings.class_weights,
        offers=(1, len(widths)) if network.choose_features and len(widths) > 1 else None,
        tick=tick,
    )
    loss = _put_into_head(layer, solved.weight, solved.bias, features, labels)
    lines = list(_summary_lines(solved, classes, layer, refit))
    if not refit:
        return SolvedPhase(loss, len(labels), None, lines)
    by_size: BySize = ([], [])
    if problem := unsuitable(features, units, len(classes)):
        lines.append(problem)
    else:
        read_widths = widths if solved.features == features.shape[1] else widths[-1:]
        weights = settings.class_weights
        by_size = answers_by_size(features, labels, units, image_of_row, read_widths, solved, weights, tick)
    return SolvedPhase(loss, len(labels), _out_of_fold(solved, image_of_row, len(units), by_size), lines)


def _out_of_fold(solved: Solved, rows: np.ndarray, images: int, by_size: BySize) -> OutOfFold:
    """The answers of an image are the mean over its views."""
    predicted = [_per_image(logits, rows, images).argmax(axis=1) for logits in by_size[1]]
    return OutOfFold(_per_image(solved.logits, rows, images), by_size[0], np.stack(predicted) if predicted else None)


def _put_into_head(
    layer: nn.Linear, weight: torch.Tensor, bias: torch.Tensor, features: np.ndarray, labels: np.ndarray
) -> float:
    """Make these the weights of `layer`, zeros for the stages that they do without; the mean loss on the features."""
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, -weight.shape[1] :] = weight
        layer.bias.copy_(bias)
    return epoch_metrics(labels, features[:, -weight.shape[1] :] @ weight.numpy().T + bias.numpy())["val_loss"]


def _per_image(logits: np.ndarray, rows: np.ndarray, images: int) -> np.ndarray:
    """The mean over the views of an image, float32 [images, classes]."""
    total = np.zeros((images, logits.shape[1]), dtype=np.float64)
    np.add.at(total, rows, logits)
    mean: np.ndarray = (total / np.bincount(rows, minlength=images)[:, None]).astype(np.float32)
    return mean


def _summary_lines(solved: Solved, classes: Sequence[str], layer: nn.Linear, refit: bool) -> list[str]:
    """Lines for people: what was chosen, from which images, and which classes have too few of them."""
    learned_from = "training and validation images" if refit else "training images"
    settings = f"its settings chosen by cross-validation (shrinkage {solved.shrinkage:g})"
    lines = [f"head solved exactly from {learned_from}, {settings}"]
    if isinstance(layer, StagesHead):
        stages = solved.features == layer.in_features
        every_stage = f"{', '.join(layer.widths)} and the last output"
        lines.append(f"it reads {every_stage if stages else 'the last output alone, which is better'}")
    alone = [classes[label] for label in solved.alone]
    few = [classes[label] for label in solved.few if label not in solved.alone]
    if alone:
        lines.append(f"only one image of {_name_some(alone)}: nothing is known of how well it is recognised")
    if few:
        lines.append(f"fewer than {FEW} images of {_name_some(few)}: the figures say little about them")
    return lines


def _name_some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more classes" if len(names) > most else ""
    return ", ".join(visible(name) for name in names[:most]) + more

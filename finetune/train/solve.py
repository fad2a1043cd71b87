"""A phase in which the head is solved instead of trained: its rows, its answers out of fold, its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from finetune.data.batches import AnyImages
from finetune.evaluate.metrics import epoch_metrics
from finetune.files import visible
from finetune.model.network import Network
from finetune.model.stages import StagesHead
from finetune.train.folds import same_things
from finetune.train.head_solver import FEW, Solved, solve_head
from finetune.train.out_of_fold import OutOfFold, SpareHead
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
        spare: where a gate will choose, the head of training and validation images, which is not in the network.
        summary: lines for people.
    """

    train_loss: float
    images: int
    out_of_fold: OutOfFold | None = None
    spare: SpareHead | None = None
    summary: Sequence[str] = ()


@dataclass(frozen=True)
class _Table:
    """Rows to learn from.

    Attributes:
        features: float32 [N, D].
        labels: int64 [N].
        images: int64 [N], the image that each row is a view of.
        units: int64 [images], the same for images that show the same thing.
        source: the images, for people.
        contents: int64 [images], the same for images of one content; None where units are all that matters.
    """

    features: np.ndarray
    labels: np.ndarray
    images: np.ndarray
    units: np.ndarray
    source: str
    contents: np.ndarray | None = None


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
    settings, train, val = learner.settings, data.train.source.images, data.val.source.images
    features, row_images, val_features = data.all_features()
    learned = _Table(features, train.labels[row_images], row_images, same_things(train.units), "training images")
    if settings.optimizer == "lbfgs":
        known = (learned.features, learned.labels, val_features, val.labels)
        regression = solve_regression(*known, _widths(layer), settings.class_weights)
        loss = _put_into_head(layer, regression.weight, regression.bias, learned)
        return SolvedPhase(loss, len(learned.labels), summary=[regression.summary])
    if learner.learns_from_val:
        both = _joined(learned, val_features, train, val)
        solved, out_of_fold, lines = _of_both(network, layer, both, settings.class_weights, tick)
        return SolvedPhase(
            _put_into_head(layer, solved.weight, solved.bias, both), len(both.labels), out_of_fold, summary=lines
        )
    spare = None
    if settings.gate:  # solved now, while the features of the network before tuning are at hand
        both = _joined(learned, val_features, train, val)
        solved, out_of_fold, _ = _of_both(network, layer, both, settings.class_weights, tick)
        spare = SpareHead(solved.weight, solved.bias, out_of_fold)
    solved = _solve(network, layer, learned, settings.class_weights, tick)
    lines = list(_summary_lines(solved, network.classes, layer, learned.source))
    return SolvedPhase(
        _put_into_head(layer, solved.weight, solved.bias, learned), len(learned.labels), spare=spare, summary=lines
    )


def _joined(learned: _Table, val_features: np.ndarray, train: AnyImages, val: AnyImages) -> _Table:
    """The rows of the training images and then those of validation."""
    return _Table(
        np.concatenate([learned.features, val_features]),
        np.concatenate([learned.labels, val.labels]),
        np.concatenate([learned.images, len(train) + np.arange(len(val))]),
        same_things([*train.units, *val.units]),
        "training and validation images",
        same_things([*train.hashes, *val.hashes]),
    )


def _widths(layer: nn.Linear) -> tuple[int, ...]:
    """Of the groups of features that the layer reads."""
    return (*layer.widths.values(), layer.last) if isinstance(layer, StagesHead) else (layer.in_features,)


def _solve(
    network: Network, layer: nn.Linear, table: _Table, weights: Sequence[float] | None, tick: Callable[[], None]
) -> Solved:
    """The head of these rows, reading all that it may, or what is best where that is to be chosen."""
    widths = _widths(layer)
    return solve_head(
        table.features,
        table.labels,
        table.units[table.images],
        widths,
        classes=len(network.classes),
        class_weights=weights,
        offers=(1, len(widths)) if network.choose_features and len(widths) > 1 else None,
        tick=tick,
    )


def _of_both(
    network: Network, layer: nn.Linear, table: _Table, weights: Sequence[float] | None, tick: Callable[[], None]
) -> tuple[Solved, OutOfFold, list[str]]:
    """The head of training and validation images, its answers out of fold, and what is said of it."""
    solved = _solve(network, layer, table, weights, tick)
    lines, widths = list(_summary_lines(solved, network.classes, layer, table.source)), _widths(layer)
    read_widths = widths if solved.features == table.features.shape[1] else widths[-1:]
    by_size: BySize = ([], [])
    if problem := unsuitable(table.features, table.units, len(network.classes)):
        lines.append(problem)
    else:
        rows = (table.features, table.labels, table.units, table.images)
        by_size = answers_by_size(*rows, read_widths, solved, weights, tick)
    random = _random_split(solved, table, read_widths, weights, tick)
    return solved, _out_of_fold(solved, table.images, len(table.units), by_size, random), lines


def _random_split(
    solved: Solved,
    table: _Table,
    widths: tuple[int, ...],
    weights: Sequence[float] | None,
    tick: Callable[[], None],
) -> np.ndarray | None:
    """The class that each image is given where others of its group are learned from, int64 [images].

    None where no group keeps images together. Fitted anew on the features that the head reads, of `widths`.
    """
    if table.contents is None or np.array_equal(table.contents, table.units):
        return None
    read, classes = table.features[:, table.features.shape[1] - solved.features :], len(solved.bias)
    contents = table.contents[table.images]
    apart = solve_head(read, table.labels, contents, widths, classes=classes, class_weights=weights, tick=tick)
    named: np.ndarray = _per_image(apart.logits, table.images, len(table.units)).argmax(axis=1)
    return named


def _out_of_fold(
    solved: Solved, rows: np.ndarray, images: int, by_size: BySize, random: np.ndarray | None
) -> OutOfFold:
    """The answers of an image are the mean over its views."""
    predicted = [_per_image(logits, rows, images).argmax(axis=1) for logits in by_size[1]]
    answers = np.stack(predicted) if predicted else None
    return OutOfFold(_per_image(solved.logits, rows, images), by_size[0], answers, random)


def put_head(layer: nn.Linear, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Make these, float32 [classes, D] and [classes], the weights of `layer`; zeros for stages that they do without."""
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, -weight.shape[1] :] = weight
        layer.bias.copy_(bias)


def _put_into_head(layer: nn.Linear, weight: torch.Tensor, bias: torch.Tensor, table: _Table) -> float:
    """Put a head into the network; its mean loss on the rows that it learned from."""
    put_head(layer, weight, bias)
    logits = table.features[:, -weight.shape[1] :] @ weight.numpy().T + bias.numpy()
    return epoch_metrics(table.labels, logits)["val_loss"]


def _per_image(logits: np.ndarray, rows: np.ndarray, images: int) -> np.ndarray:
    """The mean over the views of an image, float32 [images, classes]."""
    total = np.zeros((images, logits.shape[1]), dtype=np.float64)
    np.add.at(total, rows, logits)
    mean: np.ndarray = (total / np.bincount(rows, minlength=images)[:, None]).astype(np.float32)
    return mean


def _summary_lines(solved: Solved, classes: Sequence[str], layer: nn.Linear, learned_from: str) -> list[str]:
    """Lines for people: what was chosen, from which images, and which classes have too few of them."""
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

"""The head, solved: against its definition, across sizes, with few images, and what never shares a fold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import f1_score

from finetune.errors import DivergedError
from finetune.train import discriminant, head_solver
from finetune.train.discriminant import Discriminant, Moments, Rows, Scale
from finetune.train.folds import assign_folds, same_things
from finetune.train.head_solver import Solved, solve_head


def digits(per_class: int, spare: int = 50, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training features and labels, and others to evaluate on: scikit-learn's digits as 64 numbers."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(y))
    picked = [order[y[order] == label][: per_class + spare] for label in range(10)]
    train, test = (np.concatenate([rows[part] for rows in picked]) for part in (slice(per_class), slice(-spare, None)))
    return x[train].astype(np.float32), y[train], x[test].astype(np.float32), y[test]


def solved(x: np.ndarray, y: np.ndarray, classes: int = 10, **given: Any) -> Solved:
    units = given.pop("units", np.arange(len(y)))
    return solve_head(x, y, units, given.pop("widths", (x.shape[1],)), classes=classes, **given)


def answers(head: Solved, x: np.ndarray) -> np.ndarray:
    return x[:, -head.features :] @ head.weight.numpy().T + head.bias.numpy()


def test_it_is_better_than_scikit_learns_shrunk_discriminant_and_its_own_estimate_is_fair() -> None:
    x, y, new_x, new_y = digits(20)
    head = solved(x, y)
    ours = f1_score(new_y, answers(head, new_x).argmax(axis=1), average="macro")
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x, y).predict(new_x)
    assert ours >= f1_score(new_y, theirs, average="macro") - 0.005
    estimate = f1_score(y, head.logits.argmax(axis=1), average="macro")
    assert abs(estimate - ours) < 0.05
    assert head.loss < np.log(10) / 4


def test_the_same_rows_give_the_same_bits_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, new_x, _ = digits(20)
    first, again = solved(x, y), solved(x, y)
    assert torch.equal(first.weight, again.weight)
    assert np.array_equal(first.logits, again.logits)
    monkeypatch.setattr(discriminant, "BLOCK", 7)  # as many images are streamed
    streamed = solved(x, y)
    assert np.allclose(answers(streamed, new_x), answers(first, new_x), atol=1e-3)
    assert (streamed.shrinkage, streamed.sharpness) == (first.shrinkage, first.sharpness)


def test_with_more_rows_than_are_searched_every_second_is_and_the_head_is_nearly_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y, new_x, _ = digits(100)
    whole = solved(x, y)
    monkeypatch.setattr(head_solver, "SEARCHED", 500)
    part = solved(x, y)
    assert part.logits.shape == whole.logits.shape
    assert np.mean(answers(part, new_x).argmax(axis=1) == answers(whole, new_x).argmax(axis=1)) > 0.98


def test_in_the_space_of_the_rows_it_is_the_same_head() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(40) % 4
    x = (rng.normal(size=(4, 90))[y] + rng.normal(size=(40, 90))).astype(np.float32)
    rows = Rows(x, (90,))
    assert rows.dimensions == 40  # fewer rows than features: solved in their span
    weight, bias = rows.head(*Discriminant(Moments.of(rows, np.arange(40), y, np.ones(4))).head(0.5))
    z = (torch.from_numpy(x).double() - rows.scale.mean) / rows.scale.spread
    means = torch.stack([z[y == label].mean(dim=0) for label in range(4)])
    within = (z - means[y]).T @ (z - means[y]) / (40 - 4)
    shrunk = 0.5 * within + 0.5 * within.diagonal().sum() / 40 * torch.eye(90, dtype=torch.float64)
    slope = torch.linalg.solve(shrunk, means.T).T
    expected = z @ slope.T + np.log(0.25) - (slope * means).sum(dim=1) / 2
    assert torch.allclose(torch.from_numpy(x).double() @ weight.T + bias, expected, atol=1e-8)


def test_a_feature_that_hardly_varies_in_training_does_not_explode_on_new_pictures() -> None:
    x, y, new_x, new_y = digits(20)
    quiet, loud = 1e-3 * np.random.default_rng(0).normal(size=(len(x), 1)), np.ones((len(new_x), 1))
    head = solved(np.hstack([x, quiet]).astype(np.float32), y)
    told = answers(head, np.hstack([new_x, loud]).astype(np.float32))
    assert np.mean(told.argmax(axis=1) == new_y) > 0.85


def test_groups_of_features_weigh_alike_whatever_their_size_and_unit() -> None:
    rng = np.random.default_rng(0)
    x = np.hstack([rng.normal(size=(200, 5)) * 100, rng.normal(size=(200, 50)) * 0.01]).astype(np.float32)
    scaled = Scale.of(x, (5, 50)).apply(torch.from_numpy(x).double())
    total = scaled.var(dim=0)
    assert float(total[:5].sum()) == pytest.approx(float(total[5:].sum()), rel=0.05)


def test_features_that_only_confuse_are_left_out_by_cross_validation() -> None:
    x, y, _, _ = digits(20)
    noise = np.random.default_rng(0).normal(size=(len(x), 400)).astype(np.float32)
    assert solved(np.hstack([noise, x]), y, widths=(400, 64), offers=(1, 2)).features == 64
    halves = solved(x, y, widths=(32, 32), offers=(1, 2))
    assert halves.features == 64


def test_one_image_a_class_works_and_is_named() -> None:
    x, y, new_x, new_y = digits(1)
    head = solved(x, y)
    assert head.alone == tuple(range(10))
    assert torch.isfinite(head.weight).all()
    assert np.mean(answers(head, new_x).argmax(axis=1) == new_y) > 0.4  # the nearest of ten pictures
    assert np.isfinite(head.logits).all()


def test_one_image_in_one_class_works_and_the_rest_is_as_good_as_ever() -> None:
    x, y, new_x, new_y = digits(20)
    keep = (y != 3) | (np.arange(len(y)) == np.flatnonzero(y == 3)[0])
    head = solved(x[keep], y[keep])
    assert head.alone == (3,)
    assert np.mean(answers(head, new_x).argmax(axis=1)[new_y != 3] == new_y[new_y != 3]) > 0.85


def test_weighted_classes_are_as_if_they_had_more_images() -> None:
    x, y, new_x, _ = digits(30)
    keep = (y != 8) | (np.arange(len(y)) % 3 == 0)
    x, y = x[keep], y[keep]
    weights = len(y) / (10 * np.bincount(y))
    plain, balanced = solved(x, y), solved(x, y, class_weights=weights)
    told = [np.mean(answers(head, new_x).argmax(axis=1) == 8) for head in (plain, balanced)]
    assert told[1] >= told[0]
    assert not torch.equal(plain.weight, balanced.weight)


def test_balanced_weights_recognise_rare_classes_better() -> None:
    x, y, new_x, new_y = digits(60)
    sizes = np.round(60 * 30.0 ** -np.linspace(0, 1, 10)).astype(int)  # 60, 41, 28, … 2 images
    keep = np.concatenate([np.flatnonzero(y == label)[:size] for label, size in enumerate(sizes)])
    weights = len(keep) / (10 * sizes)
    plain, balanced = solved(x[keep], y[keep]), solved(x[keep], y[keep], class_weights=weights)
    f1 = [f1_score(new_y, answers(head, new_x).argmax(axis=1), average="macro") for head in (plain, balanced)]
    assert f1[1] > f1[0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(value: float) -> None:
    x, y, _, _ = digits(5)
    x[3, 5] = x[4, 6] = value
    with pytest.raises(DivergedError, match="no finite features for 2 images"):
        solved(x, y)


def test_what_shows_the_same_is_in_one_fold_and_classes_are_spread() -> None:
    labels = np.repeat(np.arange(3), 20)
    hashes = [f"{index // 2}" for index in range(60)]  # pairs of duplicates
    groups = [None if index % 3 else f"g{index // 9}" for index in range(60)]
    units = same_things(hashes, groups)
    folds = assign_folds(labels, units, 5)
    for column in (hashes, groups):
        for key in set(column) - {None}:
            assert len({folds[row] for row in range(60) if column[row] == key}) == 1
    alone = assign_folds(labels, np.arange(60), 5)
    assert all(np.bincount(alone[labels == label]).tolist() == [4] * 5 for label in range(3))
    assert not np.array_equal(alone, assign_folds(labels, np.arange(60), 5, seed=1))


def test_copies_of_an_image_do_not_flatter_the_estimate() -> None:
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(40, 30)), 4, axis=0).astype(np.float32)  # nothing to be learned, four copies of each
    y = np.repeat(np.arange(40) % 2, 4)
    apart = f1_score(y, solved(x, y, classes=2).logits.argmax(axis=1), average="macro")
    together = solved(x, y, classes=2, units=np.repeat(np.arange(40), 4))
    assert f1_score(y, together.logits.argmax(axis=1), average="macro") < 0.7 < apart

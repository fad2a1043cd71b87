"""Heads of fewer images: how many they learn from, that they never see what they answer, and that they repeat."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from finetune.train import smaller_sets
from finetune.train.folds import assign_folds
from finetune.train.head_solver import solve_head
from finetune.train.smaller_sets import FEWEST, PARTS, SHARES, answers_by_size, unsuitable


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    chosen = np.random.default_rng(0).permutation(len(y))[:300]
    return x[chosen].astype(np.float32), y[chosen]


def test_four_sizes_the_last_of_them_out_of_fold_and_the_same_bits_again(digits) -> None:
    x, y = digits
    rows = np.arange(len(y))
    solved = solve_head(x, y, rows, (64,), classes=10)
    sizes, answers = answers_by_size(x, y, rows, rows, (64,), solved)
    assert sizes == sorted(sizes)
    assert sizes[-1] == 270
    assert np.allclose(sizes[:3], [share * 270 for share in SHARES], atol=5)
    assert answers[-1] is solved.logits
    again = answers_by_size(x, y, rows, rows, (64,), solved)
    assert again[0] == sizes
    assert all(np.array_equal(one, other) for one, other in zip(answers, again[1], strict=True))
    right = [(one.argmax(axis=1) == y).mean() for one in answers]
    assert right[0] > 0.6  # of ten classes
    assert right[-1] > right[0]


def test_views_and_duplicates_of_an_answered_image_are_never_learnt_from(digits, monkeypatch) -> None:
    x, y = digits
    images = np.tile(np.arange(len(y)), 2)  # two views of each
    units = np.arange(len(y))
    units[1::10] = units[0::10]  # every tenth has a duplicate
    seen = []
    part = smaller_sets._part

    def watched(labels, things, folds, fold, share):
        chosen = part(labels, things, folds, fold, share)
        seen.append((things[chosen], things[folds == fold]))
        return chosen

    monkeypatch.setattr(smaller_sets, "_part", watched)
    both, labels = np.concatenate([x, x + 0.5]), y[images]
    solved = solve_head(both, labels, units[images], (64,), classes=10)
    sizes, _ = answers_by_size(both, labels, units, images, (64,), solved)
    assert len(seen) == len(SHARES) * PARTS
    assert not any(np.intersect1d(learned, answered).size for learned, answered in seen)
    assert sizes[-1] == 270  # views are not counted


def test_a_smaller_set_lies_inside_a_larger_one_and_has_its_share_of_every_class(digits) -> None:
    _, y = digits
    rows = np.arange(len(y))
    folds = assign_folds(y, rows, PARTS)
    parts = [smaller_sets._part(y, rows, folds, 1, share * 0.9) for share in SHARES]
    assert set(parts[0]) < set(parts[1]) < set(parts[2])
    counts = np.bincount(y)
    for share, part in zip(SHARES, parts, strict=True):
        assert np.abs(np.bincount(y[part]) - share * 0.9 * counts).max() <= 1


def test_too_many_or_too_few_images_have_no_curve() -> None:
    rows = np.arange(FEWEST * 3)
    assert unsuitable(np.zeros((len(rows), 4)), rows, 3) == ""
    assert "fewer than 8 images a class" in unsuitable(np.zeros((len(rows), 4)), rows, 4)
    many = np.zeros((smaller_sets.MOST_IMAGES + 1, 1))
    assert "up to 3,000 images" in unsuitable(many, np.arange(len(many)), 3)

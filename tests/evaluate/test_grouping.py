"""What a random split promises too much is measured, with an interval that knows of groups."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.evaluate.grouping import grouping


def test_the_difference_is_of_the_same_images_and_matters_where_groups_agree() -> None:
    labels = np.zeros(200, dtype=np.int64)
    groups = np.repeat(np.arange(20), 10)
    grouped = (groups < 8).astype(np.int64)  # 8 of 20 groups are all wrong
    found = grouping(labels, groups, grouped, np.zeros_like(labels))
    assert (found["n"], found["groups"], found["accuracy"], found["accuracy_random_split"]) == (200, 20, 0.6, 1.0)
    assert found["difference"] == pytest.approx(0.4)
    low, high = found["difference_ci95"]
    assert 0.1 < low < 0.25
    assert 0.55 < high < 0.7
    assert found["matters"]


def test_one_group_of_few_proves_nothing_however_many_images_it_has() -> None:
    labels = np.zeros(500, dtype=np.int64)
    groups = np.repeat(np.arange(5), 100)
    found = grouping(labels, groups, (groups == 0).astype(np.int64), labels)
    assert found["difference"] == pytest.approx(0.2)
    assert not found["matters"]


def test_no_difference_has_an_interval_with_a_width() -> None:
    labels = np.zeros(100, dtype=np.int64)
    found = grouping(labels, np.repeat(np.arange(10), 10), labels, labels)
    low, high = found["difference_ci95"]
    assert low < 0 < high
    assert not found["matters"]


def test_where_groups_say_nothing_it_seldom_matters() -> None:
    rng = np.random.default_rng(0)
    groups, labels = np.repeat(np.arange(25), 8), np.zeros(200, dtype=np.int64)
    claims = [grouping(labels, groups, rng.integers(0, 2, 200), rng.integers(0, 2, 200))["matters"] for _ in range(400)]
    assert np.mean(claims) < 0.05

"""Suspects of wrong labels: what is asked of images of two classes that are often taken for each other."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.evaluate.label_errors import label_suspects, mistaken_shares


def test_shares_of_mistaken_images_are_of_both_classes() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    answers = np.eye(3)[[0, 0, 0, 1, 0, 1, 2, 2]]
    shares = mistaken_shares(labels, answers)
    assert shares[0, 1] == shares[1, 0] == pytest.approx(2 / 6)
    assert shares[0, 2] == shares[1, 2] == 0.0


@pytest.mark.parametrize(("mistaken", "suspects"), [(0, 1), (4, 0)])
def test_between_classes_often_mistaken_two_neighbours_with_the_label_clear_an_image(
    mistaken: int, suspects: int
) -> None:
    """Image 0 is given class 0 and answered 1; of its ten nearest seven are of class 1, two of 0, one of 2."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 40)
    features = 10 * np.eye(3)[labels] + rng.normal(scale=0.01, size=(120, 3))
    answers = np.full((120, 3), 0.05)
    answers[np.arange(120), labels] = 0.9
    for place in range(1, 1 + mistaken):  # hard, but among their own
        answers[place], answers[40 + place] = (0.4, 0.55, 0.05), (0.55, 0.4, 0.05)
    answers[0] = (0.04, 0.95, 0.01)
    query = np.array([1.0, 1.0, 1.0])
    features[0] = query
    for place in (*range(70, 77), 38, 39, 119):
        features[place] = query + rng.normal(scale=0.01, size=3)
    found = [suspect.index for suspect in label_suspects(features, labels, answers) if suspect.index == 0]
    assert len(found) == suspects

"""What qualifies a headline is said beside it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from finetune.evaluate.metrics import compute_metrics
from finetune.report.cautions import cautions
from finetune.report.tables import per_class_text


def table(rows: list[tuple[str, str, str]]) -> pd.DataFrame:
    """Rows of (class, split, content)."""
    return pd.DataFrame(rows, columns=["class", "split", "sha256"])


CLEAN = [("ant", "train", "a"), ("bee", "train", "b"), ("ant", "test", "c"), ("bee", "val", "d")]


def test_a_clean_test_split_needs_no_caution() -> None:
    assert cautions(table(CLEAN), "test") == []


def test_validation_images_chose_the_epoch() -> None:
    (line,) = cautions(table(CLEAN), "val")
    assert "chose the epoch" in line
    assert "no test split" in line


def test_leaks_and_contradictions_are_counted() -> None:
    rows = [*CLEAN, ("ant", "test", "a"), ("bee", "test", "a")]
    leak, torn = cautions(table(rows), "test")
    assert leak.startswith("Leak: 2 of these 3 images")
    assert torn.startswith("2 of these 3 images are in more than one class")


def test_other_images_may_have_been_learned_from() -> None:
    others = table([("ant", "", "a"), ("ant", "", "x")])
    (line,) = cautions(others, "", table(CLEAN)[:2])
    assert line.startswith("Leak: 1 of these 2 images")


def test_images_without_hashes_are_taken_as_they_are() -> None:
    assert cautions(pd.DataFrame({"class": ["a"], "split": ["test"]}), "test") == []


def test_the_terminal_names_the_split_and_the_cautions() -> None:
    metrics = compute_metrics(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]), ["a", "b"])
    text = per_class_text(metrics, split="val", cautions=["Leak: 1 of these"])
    assert "on 2 validation images, which also chose the epoch" in text
    assert text.splitlines()[-1] == "caution: Leak: 1 of these"
    assert "never seen in training" in per_class_text(metrics, split="test")

"""The tables of the terminal and the sentences of the page."""

from __future__ import annotations

import numpy as np
from rich.cells import cell_len

from finetune.evaluate.metrics import Metrics, compute_metrics
from finetune.report.tables import per_class_text, plan_text
from finetune.report.words import confusions, mergers, percent, verdict


def result(matrix: list[list[int]], classes: list[str]) -> Metrics:
    """Metrics of predictions with this confusion matrix."""
    pairs = [(t, p) for t, row in enumerate(matrix) for p, count in enumerate(row) for _ in range(count)]
    chances = np.full((len(pairs), len(classes)), 0.1 / (len(classes) - 1))
    chances[np.arange(len(pairs)), [p for _, p in pairs]] = 0.9
    return compute_metrics(np.array([t for t, _ in pairs]), chances, classes)


SHIPS = result([[38, 2, 0], [4, 20, 1], [0, 3, 6]], ["ferry", "ketch", "schooner"])


def test_worst_class_comes_first_and_small_support_is_flagged() -> None:
    lines = per_class_text(SHIPS).splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["schooner", "ketch", "ferry"]
    assert "* 9" in lines[2]
    assert "*" not in lines[3] + lines[4]
    assert "* fewer than 20 images: too few to trust the scores of this class" in lines
    assert "0.667 0.35-0.88" in lines[2]  # recall 6 of 9 with its Wilson interval


def test_no_flag_no_note() -> None:
    assert "too few" not in per_class_text(result([[20, 1], [0, 30]], ["ant", "bee"]))


def test_a_class_without_images_is_last_and_out_of_the_macro_average() -> None:
    text = per_class_text(result([[30, 1, 0], [2, 30, 0], [0, 0, 0]], ["ant", "bee", "wasp"]))
    assert text.splitlines()[4].split()[:3] == ["wasp", "*", "0"]
    assert "over the 2 of 3 classes that have images" in text


def test_many_classes_are_cut_to_the_worst() -> None:
    classes = [f"class {index}" for index in range(30)]
    text = per_class_text(result((np.eye(30, dtype=int) * 3).tolist(), classes), limit=5)
    assert sum(line.startswith("class ") for line in text.splitlines()[2:]) == 5
    assert "and 25 classes that do better" in text


def test_columns_stay_aligned_whatever_the_names_are() -> None:
    names = ["救急車 🚑", "caf\udce9", "two\nlines", "\x1b[31mred", "x" * 200]
    lines = per_class_text(result((np.eye(5, dtype=int) * 25).tolist(), names)).splitlines()[:7]
    assert len({cell_len(line) for line in lines}) == 1
    assert all(line.isprintable() for line in lines)


def test_plan_is_one_row_a_group() -> None:
    columns = ["group", "parameters", "phase 0: epochs 0-1", "phase 1: epochs 2-3"]
    lines = plan_text(columns, [["stem", 1_234_567, "frozen", "frozen"], ["head", 7, 1e-3, 0.0005]]).splitlines()
    assert lines[2].split() == ["stem", "1,234,567", "frozen", "frozen"]
    assert lines[3].split() == ["head", "7", "0.001", "0.0005"]


def test_most_frequent_confusion_first_ties_by_class_order() -> None:
    rows = SHIPS.as_dict("test")["per_class"]
    found = [(one.truth, one.predicted, one.count, one.support) for one in confusions(SHIPS.confusion, rows)]
    assert found[:2] == [("ketch", "ferry", 4, 25), ("schooner", "ketch", 3, 9)]
    assert len(found) == 4


def test_a_result_no_better_than_the_largest_class_is_called_that() -> None:
    lazy = result([[45, 0], [5, 0]], ["ant", "bee"])
    told = " ".join(verdict(lazy.as_dict("test"), lazy.confusion, False))
    assert "right 90.0% of the time: this result is not clearly better than that" in told
    good = " ".join(verdict(SHIPS.as_dict("test"), SHIPS.confusion, False))
    assert "not clearly better" not in good


def test_a_weakest_class_of_few_images_is_named_with_the_weakest_that_can_be_evaluated() -> None:
    told = " ".join(verdict(SHIPS.as_dict("test"), SHIPS.confusion, False))
    assert "The weakest class is <bdi>schooner</bdi>: F1 " in told
    assert "but on 9 images only; of those with at least 20 images it is <bdi>ketch</bdi>: " in told
    assert "4 of 25 images of <bdi>ketch</bdi> were taken for <bdi>ferry</bdi>" in told


def test_a_percentage_is_not_rounded_up_to_all() -> None:
    assert percent(0.99999) == "99.9%"
    assert percent(1.0) == "100.0%"


def test_classes_that_are_taken_for_each_other_could_be_one() -> None:
    metrics = result([[40, 0, 0], [0, 14, 6], [1, 5, 10]], ["ferry", "ketch", "schooner"])
    (merger,) = mergers(metrics.confusion, metrics.as_dict("")["per_class"])
    assert (merger.first, merger.second, merger.mended) == ("ketch", "schooner", 11)
    assert merger.accuracy == (40 + 14 + 10 + 11) / 76
    assert merger.share == 11 / 36
    two = result([[5, 5], [5, 5]], ["ant", "bee"])
    assert mergers(two.confusion, two.as_dict("")["per_class"]) == []

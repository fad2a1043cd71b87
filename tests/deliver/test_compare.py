"""`ft.compare` and `finetune compare`, on run folders as a run leaves them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import finetune as ft
from finetune.errors import DataError, UsageError
from finetune.evaluate.metrics import compute_metrics
from finetune.files import write_csv, write_json
from finetune.report.files import write_report
from tests.conftest import Command
from tests.makers import class_folders

CLASSES = ["ant", "bee", "<b>wasp</b>"]


def make_run(
    folder: Path, photos: Path, answers: Sequence[int], labels: Sequence[int], first: int = 0, salt: str = ""
) -> Path:
    """A run folder with a report on images `first`, … whose answers these are."""
    paths = [f"{CLASSES[label]}/{index + first:03}.jpg" for index, label in enumerate(labels)]
    chances = np.full((len(labels), len(CLASSES)), 0.05)
    chances[np.arange(len(labels)), answers] = 0.9
    truth = np.array(labels)
    write_report(
        folder / "report",
        split="test",
        selected_on=False,
        metrics=compute_metrics(truth, chances, CLASSES),
        predictions=(paths, truth, chances),
        classes=CLASSES,
    )
    rows = [[path, path.split("/")[0], "test", hashlib.sha256((salt + path).encode()).hexdigest()] for path in paths]
    write_csv(folder / "data.csv", ["path", "class", "split", "sha256"], rows)
    recipe = {"data": {"folder": str(photos)}, "model": {"backbone": "small/mlp"}}
    record = {"status": "finished", "recipe": recipe, "timings": {"train": 12.0}, "temperature": 1.5}
    write_json(folder / "run.json", record)
    return folder


def drawn(n: int, *skills: float, seed: int = 0) -> tuple[list[int], list[list[int]]]:
    random = np.random.default_rng(seed)
    labels, hard = random.integers(0, 3, n), random.normal(size=n)
    sides = [np.where(random.normal(skill, 0.4, n) > hard, labels, (labels + 1) % 3) for skill in skills]
    return labels.tolist(), [side.tolist() for side in sides]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs a and b of one skill, w weaker, and three seeds each of two recipes below s and t."""
    root = tmp_path_factory.mktemp("runs")
    photos = class_folders(root / "photos", dict.fromkeys(["ant", "bee"], 6))
    labels, sides = drawn(300, 1.0, 1.0, 0.2, 1.0, 0.95, 1.05, 0.2, 0.25, 0.15)
    for name, answers in zip(["a", "b", "w", "s/001", "s/002", "s/003", "t/001", "t/002", "t/003"], sides, strict=True):
        make_run(root / name, photos, answers, labels)
    return root


def test_two_equals_are_not_told_apart(runs: Path) -> None:
    found = ft.compare(runs / "a", runs / "b")
    assert set(found) >= {"n", "runs", "difference", "mcnemar", "per_class", "flipped", "verdict", "sentence"}
    assert found["n"] == 300
    assert found["verdict"] == "no difference"
    assert found["sentence"].startswith("No difference")
    low, high = found["difference"]["accuracy_ci95"]
    assert low < 0 < high
    assert len(found["flipped"]["only_first"]) == found["mcnemar"]["only_first"]
    assert "would be needed" in found["sentence"]


def test_the_weaker_one_is_named_whichever_comes_first(runs: Path) -> None:
    found, turned = ft.compare(runs / "a", runs / "w"), ft.compare(runs / "w", runs / "a")
    assert found["verdict"] == "first"
    assert turned["verdict"] == "second"
    assert found["difference"]["accuracy"] == pytest.approx(-turned["difference"]["accuracy"])
    accuracies = [run["accuracy"] for run in found["runs"]]
    assert found["difference"]["accuracy"] == pytest.approx(accuracies[1] - accuracies[0])
    clear = [row for row in found["per_class"] if row["p_holm"] < 0.05]
    assert clear
    assert all(row["difference"] < 0 for row in clear)


def test_seeds_are_pooled(runs: Path) -> None:
    found = ft.compare(runs / "s", [runs / "t" / "001", runs / "t" / "002", runs / "t" / "003"])
    assert [run["seeds"] for run in found["runs"]] == [3, 3]
    assert found["verdict"] == "first"
    assert found["mcnemar"]["method"] == "seeds and images"
    assert ft.compare(runs / "s", str(runs / "t" / "0*"))["difference"] == found["difference"]


def test_of_more_than_two_there_are_pairs_corrected_together(runs: Path) -> None:
    found = ft.compare(runs / "a", runs / "b", runs / "w")
    assert [pair["verdict"] for pair in found["pairs"]] == ["no difference", "first", "first"]
    assert all(pair["mcnemar"]["p_holm"] >= pair["mcnemar"]["p"] for pair in found["pairs"])
    assert len(found["runs"]) == 3


def test_other_images_are_refused_and_named_unless_the_shared_ones_will_do(runs: Path, tmp_path: Path) -> None:
    labels, (answers,) = drawn(300, 1.0)
    part = make_run(tmp_path / "part", runs / "photos", answers[:200], labels[:200])
    with pytest.raises(DataError, match=r"100 of its 300 test images.*ant/2|--intersection"):
        ft.compare(runs / "a", part)
    assert ft.compare(runs / "a", part, intersection=True)["n"] == 200
    other = make_run(tmp_path / "other", runs / "photos", answers, labels, salt="other content")
    with pytest.raises(DataError) as error:
        ft.compare(runs / "a", other, intersection=True)
    assert len(error.value.problems) == 2
    turned = make_run(tmp_path / "turned", runs / "photos", answers, [(label + 1) % 3 for label in labels])
    with pytest.raises(DataError):
        ft.compare(runs / "a", turned)


def test_what_is_no_run_is_said(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one run alone"):
        ft.compare(runs / "a")
    with pytest.raises(UsageError, match="no run there"):
        ft.compare(runs / "a", tmp_path)
    write_json(tmp_path / "young" / "run.json", {"status": "running", "recipe": {"data": {}}})
    with pytest.raises(UsageError, match="no report yet"):
        ft.compare(runs / "a", tmp_path / "young")


class Sources(HTMLParser):
    """Addresses that a page loads, and the elements that it has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_command_prints_writes_a_page_and_exits_as_told(runs: Path, cli: Command, tmp_path: Path) -> None:
    page = tmp_path / "compare.html"
    done = cli("compare", runs / "a", runs / "w", "--json", "--out", page)
    assert done.rc == 0, done.err
    assert json.loads(done.out)["verdict"] == "first"
    text = page.read_text()
    sources = Sources(text)
    assert "wasp" not in "".join(sources.tags)
    assert "&lt;b&gt;wasp&lt;/b&gt;" in text
    assert all(address.startswith("data:image/jpeg") for address in sources.loads)
    assert not re.search(r"https?://|url\(|@import|<link", text)
    assert "Only the first gets these right" in text
    refused = cli("compare", runs / "a", tmp_path)
    assert refused.rc == 2

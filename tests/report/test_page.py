"""What the page says first, which images it shows, and that it reads in a browser: wide and narrow, day and night."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.evaluate.calibrate import ece_of_the_calibrated, tempered
from finetune.evaluate.metrics import calibration_error, compute_metrics, probabilities
from finetune.report.confidence import confidence, overconfidence
from finetune.report.files import write_report
from finetune.report.gallery import PICTURES, pick
from finetune.report.learning import fitting
from finetune.report.plots import confusion_png
from finetune.report.thumbnails import thumbnail
from finetune.report.worries import worries


def answers(classes: int, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities that are right as often as they say."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2.5, (n, classes))
    chances = probabilities(logits)
    return (random.random(n)[:, None] > np.cumsum(chances, axis=1)).sum(axis=1).clip(0, classes - 1), chances


def write(folder: Path, classes: int, n: int, **run: Any) -> Path:
    """A report as a run writes it, every image a picture of noise."""
    labels, chances = answers(classes, n)
    names = [f"class {index}" for index in range(classes)]
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    keys = ("train_loss", "val_loss", "val_accuracy", "val_macro_f1")
    history = [{"epoch": e, "phase": e // 2, **dict.fromkeys(keys, 1 / (e + 1)), "grad:head": 0.1} for e in range(4)]
    about = {"name": "photos", "folder": "runs/photos/001", "temperature": 1.4, "recipe": {"train": {"loss": "hinge"}}}
    faults = write_report(
        folder,
        split="test",
        selected_on=False,
        metrics=compute_metrics(labels, chances, names),
        predictions=([f"{names[label]}/{i}.jpg" for i, label in enumerate(labels)], labels, chances),
        classes=names,
        history=history,
        plan=(["group", "parameters", "phase 0", "phase 1"], [["stem", 9, "frozen", "0.1"], ["head", 7, "0.1", "0.1"]]),
        run={**about, **run},
        thumbnails=lambda places: dict.fromkeys(places, thumbnail(noise)),
    )
    assert faults == []
    return folder / "report.html"


# --- what it says ----------------------------------------------------------------------------------------------------


def metrics_of(supports: list[int], accuracy: float = 0.9) -> dict[str, Any]:
    rows = [{"class": f"c{index}", "support": support, "f1": accuracy} for index, support in enumerate(supports)]
    n = sum(supports)
    return {"n": n, "per_class": rows, "base_rate": max(supports) / n, "accuracy_ci95": [accuracy - 0.05, 1.0]}


def test_worries_are_those_that_apply() -> None:
    assert worries(metrics_of([30, 30]), {"counts": {"train": {"a": 9, "b": 9}}}, 0, "", "") == []
    told = worries(
        {**metrics_of([30, 5, 40], accuracy=0.5), "cautions": ["Leak"]},
        {"counts": {"train": {"a": 200, "b": 10}}},
        3,
        "Overfitting",
        "too sure",
    )
    assert told[0] == "Leak"
    text = "\n".join(told)
    for sign in ("not clearly better", "1 of 3 classes have fewer than 20", "c1", "20 times as many", "In 3 mistakes"):
        assert sign in text
    assert {"Overfitting", "too sure"} <= set(told)
    assert "see data.class_weights" in text
    weighted = worries(metrics_of([30, 40]), {"counts": {"train": {"a": 200, "b": 10}}}, 0, "", "", weighted=True)
    assert "data.class_weights" not in "\n".join(weighted)


def history(pairs: list[tuple[float, float]]) -> list[dict[str, float]]:
    return [{"epoch": i, "phase": 0, "train_loss": a, "val_loss": b} for i, (a, b) in enumerate(pairs)]


def test_the_curves_are_read() -> None:
    assert fitting(history([(1.0, 1.0), (0.5, 0.7), (0.2, 0.9), (0.1, 1.1)]), {}).startswith(
        "Overfitting: after epoch 2"
    )
    assert "more epochs" in fitting(history([(1.0, 1.0), (0.8, 0.8), (0.6, 0.6)]), {})
    assert fitting(history([(1.0, 1.0), (0.5, 0.6), (0.45, 0.598), (0.4, 0.6)]), {}) == ""
    assert fitting(history([(1.0, 1.0)]), {}) == ""
    assert fitting(history([(1.0, float("nan"))] * 4), {}) == ""


def test_a_network_that_is_too_sure_is_told_so_and_an_honest_one_is_not() -> None:
    labels, chances = answers(4, 800)
    assert overconfidence(confidence(labels, chances, {})) == ""
    sharp = tempered(chances, 0.25)
    assert "too sure of itself" in overconfidence(confidence(labels, sharp, {}))
    found = confidence(labels, chances, {"temperature": 4.0})
    assert found["before"]["ece"] == pytest.approx(calibration_error(labels, sharp), abs=1e-12)
    assert found["before"]["ece"] > found["ece"]


def test_the_error_of_the_calibrated_is_what_chance_adds() -> None:
    few, many = (ece_of_the_calibrated(answers(4, n)[1]) for n in (40, 4000))
    assert few > 3 * many > 0
    measured = [calibration_error(*answers(4, 40, seed)) or 0 for seed in range(60)]
    assert few == pytest.approx(np.mean(measured), rel=0.2)


def test_the_images_shown_are_the_telling_ones() -> None:
    labels = np.array([0, 0, 0, 1, 1, 0])
    chances = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.05, 0.95], [0.97, 0.03], [np.nan, np.nan]])
    picks = pick(labels, chances)
    assert picks.mistakes == [4, 1, 2]
    assert picks.very_sure == 1
    assert picks.unsure == [0, 3]
    assert picks.cells == {(0, 1): [1, 2], (1, 0): [4]}
    assert len(pick(*answers(30, 4000)).pictured()) == PICTURES


# --- how large it is -------------------------------------------------------------------------------------------------


def test_a_thousand_classes_make_a_page_below_five_megabytes(tmp_path: Path) -> None:
    page = write(tmp_path, 1000, 4000)
    assert page.stat().st_size < 5e6


def test_the_picture_of_a_thousand_classes_shows_a_rare_mistake_far_from_the_diagonal() -> None:
    confusion = np.diag(np.full(1000, 99))
    names = [str(number) for number in range(1000)]
    plain = pixels(confusion_png(confusion, names))
    confusion[102, 900] += 30
    marked = pixels(confusion_png(confusion, names))
    assert max(plain.shape) < 1500, "small enough for the scale to be read"
    assert (np.abs(marked - plain).max(axis=2) > 40).sum() >= 4


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; without one, the test is skipped."""
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        except api.Error:
            pytest.skip("no chromium")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("report"), 4, 240)


def contrast(text: str, behind: str) -> float:
    """The contrast of two colours as browsers give them, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted([luminance(text), luminance(behind)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_reads_and_complains_of_nothing(browser: Any, page: Path, width: int, scheme: str) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    requests: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page.as_uri())
    assert said == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out to the right"
    behind = tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    for selector in ("h1", ".lead", ".note", "td", "figcaption", ".caution li"):
        colour = tab.evaluate(f"getComputedStyle(document.querySelector('{selector}')).color")
        assert contrast(colour, behind) >= 4.5, selector
    broken = tab.evaluate("[...document.images].filter(image => !image.naturalWidth).length")
    assert broken == 0
    tab.close()


def test_a_click_sorts_the_classes_and_another_shows_the_images_of_a_cell(browser: Any, page: Path) -> None:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    start = time.perf_counter()
    tab.goto(page.as_uri())
    assert time.perf_counter() - start < 30

    def images() -> list[int]:
        return [int(text) for text in tab.locator(".classes tbody td:last-child").all_text_contents()]

    tab.locator(".classes thead button", has_text="images").click()
    assert images() == sorted(images(), reverse=True)
    tab.locator(".classes thead button", has_text="images").click()
    assert images() == sorted(images())
    assert not tab.locator(".peek").first.is_visible()
    tab.locator(".matrix td a").first.click()
    assert tab.locator(".peek:target").is_visible()
    assert tab.locator(".peek:target img").count() > 0
    tab.locator("#unit-share").check()
    assert tab.locator(".matrix td s").first.is_visible()
    assert not tab.locator(".matrix td i").first.is_visible()
    tab.close()

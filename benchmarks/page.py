"""How large the report's page gets, and how long a browser takes to open it: 1,000 classes, 100,000 test images.

    python benchmarks/page.py [--classes 1000] [--images 100000] [--page report.html]

The answers are made up and nothing is trained. The page is opened in headless Chromium in turn with an empty one; the
times are those that the browser itself notes, from the start of the navigation to the first paint and to the end of
the load event.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from finetune.deliver.image_map import MOST, chosen
from finetune.evaluate.metrics import Metrics, compute_metrics, predict
from finetune.report import plots
from finetune.report.embedding_map import embedding_map
from finetune.report.gallery import HEATS, pick
from finetune.report.page import Context, render
from finetune.report.thumbnails import thumbnail

EMPTY = "<!DOCTYPE html><html lang=en><title>empty</title><p>empty"
TIMES = """() => {
  const [page] = performance.getEntriesByType("navigation");
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  return {paint: paint.startTime, load: page.loadEventEnd};
}"""


def answers(classes: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels int64 [N] and probabilities float64 [N, C] of a network that is right on three images of four."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, images)
    answer = np.where(rng.random(images) < 0.75, labels, (labels + rng.integers(1, 8, images)) % classes)
    chances = rng.random((images, classes)) / classes
    chances[np.arange(images), answer] += rng.uniform(0.2, 3.0, images)
    chances /= chances.sum(axis=1, keepdims=True)
    return labels, chances


def picture(seed: int) -> np.ndarray:
    """A blurred picture of 96 × 96 pixels, whose JPEG is about as large as that of a photograph."""
    coarse = np.random.default_rng(seed).integers(0, 256, (14, 14, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC))


def context_of(metrics: Metrics, labels: np.ndarray, chances: np.ndarray, names: list[str]) -> Context:
    """All that the page of such a run shows."""
    paths = [f"test/{names[label]}/image-{place:06}.jpg" for place, label in enumerate(labels.tolist())]
    picks, small = pick(labels, chances), {place: thumbnail(picture(place)) for place in range(200)}
    pictured, answer = picks.pictured(), predict(chances)
    shown = chosen(answer != labels, MOST)
    counts = {split: dict.fromkeys(names, n) for split, n in (("train", 1000), ("val", 50), ("test", 100))}
    rng = np.random.default_rng(1)
    return Context(
        split="test",
        selected_on=False,
        metrics=metrics.as_dict("test"),
        confusion=metrics.confusion,
        predictions=(paths, labels, chances),
        run={
            "name": "large",
            "backbone": "timm/x",
            "temperature": 1.3,
            "data": {"folder": "/in", "counts": counts},
        },
        pictures={"confusion.png": plots.confusion_png(metrics.confusion, names)},
        picks=picks,
        thumbnails={place: small[i % 200] for i, place in enumerate(pictured)},
        heats={place: small[i] for i, place in enumerate(picks.mistakes[:HEATS])},
        map_of_images=embedding_map(
            rng.normal(size=(len(shown), 320)).astype(np.float32),
            labels[shown].tolist(),
            answer[shown].tolist(),
            [paths[place] for place in shown],
            names,
            {row: small[row] for row in range(len(shown))},
        ),
    )


def opened(browser: Browser, page: Path, width: int) -> dict[str, float]:
    """Milliseconds to the first paint and to the end of the load event, in a context of its own."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    tab = context.new_page()
    tab.goto(page.as_uri())
    found: dict[str, float] = tab.evaluate(TIMES)
    context.close()
    return found


def measure(page: Path, rounds: int, width: int) -> dict[str, Any]:
    """Both pages in turn, so many times; medians and the longest."""
    empty = page.with_name("empty.html")
    empty.write_text(EMPTY)
    times: dict[str, list[float]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(rounds):
            for name, path in (("empty", empty), ("page", page)):
                for what, value in opened(browser, path, width).items():
                    times.setdefault(f"{name}_{what}_ms", []).append(value)
        browser.close()
    return {name: [round(statistics.median(row)), round(max(row))] for name, row in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--page", type=Path, help="keep the page here, or open the one that is here already")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = given.page or Path(folder) / "report.html"
        if not page.exists():
            names = [f"class number {place}" for place in range(given.classes)]
            labels, chances = answers(given.classes, given.images)
            metrics = compute_metrics(labels, chances, names)
            before = time.perf_counter()
            page.write_text(render(context_of(metrics, labels, chances, names)), encoding="utf-8")
            print(json.dumps({"drawn_s": round(time.perf_counter() - before, 1)}), flush=True)
        print(json.dumps({"mb": round(page.stat().st_size / 1e6, 2)}), flush=True)
        for width in (1280, 390):
            print(json.dumps({"width": width, "median_and_longest": measure(page, given.rounds, width)}), flush=True)


if __name__ == "__main__":
    main()

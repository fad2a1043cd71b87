"""Do the intervals cover, and do the tests err as often as they say? Prints the tables of docs/log/honest.md.

    python benchmarks/honest.py [--draws 2000]

Some minutes on one core. Needs nothing but the package.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np

from finetune.evaluate.calibrate import fit_temperature
from finetune.evaluate.compare import compare_answers
from finetune.evaluate.intervals import f1_intervals, macro_f1_interval, wilson
from finetune.evaluate.metrics import calibration_error, probabilities

RATES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
SUPPORTS = (3, 4, 5, 7, 10, 15, 20, 30, 50)


def wilson_coverage(draws: int) -> Iterator[str]:
    """Accuracy and recall: n = 10, 30, 100; p = 0.5, 0.9, 0.99."""
    yield "| n | p = 0.5 | 0.9 | 0.99 | mean |\n|---|---|---|---|---|"
    random = np.random.default_rng(0)
    for n in (10, 30, 100):
        row = []
        for p in (0.5, 0.9, 0.99):
            bounds = [wilson(int(k), n) or (0, 0) for k in random.binomial(n, p, draws)]
            row.append(np.mean([low <= p <= high for low, high in bounds]))
        yield f"| {n} | " + " | ".join(f"{100 * value:.1f}" for value in [*row, np.mean(row)]) + " |"


def f1_coverage(draws: int, classes: int) -> Iterator[str]:
    """F1 of a class and macro F1: classes of equal size, each right at a rate, mistakes spread over the others."""
    yield "| support | F1: mean over rates | lowest | macro F1: mean | lowest |\n|---|---|---|---|---|"
    random = np.random.default_rng(1)
    for support in SUPPORTS:
        single, macro = [], []
        for rate in RATES:
            shares = np.full((classes, classes), (1 - rate) / (classes - 1))
            np.fill_diagonal(shares, rate)
            known: dict[bytes, tuple[float, float]] = {}
            covered = np.zeros(2)
            for _ in range(draws):
                confusion = np.stack([random.multinomial(support, row) for row in shares])
                key = confusion.tobytes()
                if key not in known:
                    known[key] = covers(confusion, np.full(classes, support), rate)
                covered += known[key]
            single.append(covered[0] / draws)
            macro.append(covered[1] / draws)
        figures = (np.mean(single), np.min(single), np.mean(macro), np.min(macro))
        yield f"| {support} | " + " | ".join(f"{100 * value:.1f}" for value in figures) + " |"


def covers(confusion: np.ndarray, support: np.ndarray, truth: float) -> tuple[float, float]:
    """Share of the classes whose interval holds the true F1, and whether that of macro F1 does."""
    low, high = f1_intervals(confusion, support).T
    bounds = macro_f1_interval(confusion, support) or (0.0, 0.0)
    inside = float(bounds[0] - 1e-12 <= truth <= bounds[1] + 1e-12)
    return float(((low <= truth + 1e-12) & (truth <= high + 1e-12)).mean()), inside


def test_sizes(tests: int) -> Iterator[str]:
    """How often equals are told apart at 5 %, and how often a difference of 15 points is seen on 300 images."""
    yield "| seeds a side | images | skill apart | told apart |\n|---|---|---|---|"
    for seeds, images, apart in [(1, 60, 0), (1, 300, 0), (3, 300, 0), (5, 300, 0), (1, 300, 0.6), (3, 300, 0.6)]:
        found, points = 0, []
        for test in range(tests):
            random = np.random.default_rng(10_000 + test)
            labels, hard = random.integers(0, 3, images), random.normal(size=images)
            sides = [
                np.stack([answers(random, labels, hard, random.normal(skill, 0.1 * (seeds > 1))) for _ in range(seeds)])
                for skill in (0.8, 0.8 - apart)
            ]
            result = compare_answers(labels, sides[0], sides[1], 3, draws=10)
            found += result.p < 0.05
            points.append(result.accuracy)
        yield f"| {seeds} | {images} | {100 * np.mean(points):+.1f} points | {100 * found / tests:.1f} % |"


def answers(random: np.random.Generator, labels: np.ndarray, hard: np.ndarray, skill: float) -> np.ndarray:
    """The answers of a classifier that is right where an image is no harder than it can take."""
    right = random.normal(skill, 0.5, len(labels)) > hard
    return np.where(right, labels, (labels + 1) % 3)


def temperatures(tests: int) -> Iterator[str]:
    """Calibration error on 5,000 other images, by the number of images that the temperature was fitted on."""
    yield "| logits too sharp by | fitted on | error before | after |\n|---|---|---|---|"
    for sharpness in (0.5, 1.0, 3.0):
        for n in (20, 100, 1000):
            before, after = [], []
            for test in range(tests):
                random = np.random.default_rng(test)
                logits = random.normal(0, 2, (n + 5000, 5))
                cumulated = np.cumsum(probabilities(logits), axis=1)
                labels = (random.random(len(logits))[:, None] > cumulated).sum(axis=1).clip(0, 4)
                given = sharpness * logits
                temperature = fit_temperature(given[:n], labels[:n])
                before.append(calibration_error(labels[n:], probabilities(given[n:])))
                after.append(calibration_error(labels[n:], probabilities(given[n:], temperature=temperature)))
            yield f"| {sharpness} | {n} | {np.mean(before):.3f} | {np.mean(after):.3f} |"


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2000)
    draws = parser.parse_args().draws
    tables = {
        "Wilson's interval": wilson_coverage(draws),
        "F1, 2 classes": f1_coverage(draws, 2),
        "F1, 7 classes": f1_coverage(max(draws // 4, 50), 7),
        "Comparisons": test_sizes(max(draws // 4, 50)),
        "Temperature": temperatures(max(draws // 100, 5)),
    }
    for title, lines in tables.items():
        print(f"\n{title}\n")
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    main()

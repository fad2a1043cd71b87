"""How many augmented views are worth keeping, and does a head that is solved beat one that is stepped?

    python benchmarks/views.py BACKBONE vehicles=FOLDER hymenoptera=FOLDER tiny=FOLDER     # half an hour on one core

BACKBONE is a card with weights; it stays frozen and a linear head learns on it. Views are kept in turn: with K of them
epoch e sees view e mod K; with as many as epochs, every epoch has its own, which is exactly the uncached run. Five
seeds; each splits anew what is not split, the folder's own val/ being tested on where there is one. Intervals are
95 % over the seeds, of the difference to the uncached run of the same seed (Student's t). docs/log/ has the result.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from finetune import Classifier, ImageFolder
from finetune.data.dataset import Dataset
from finetune.data.split import split

EPOCHS = 10
SEEDS = range(5)
STEPPED = {"lr": 2e-3, "schedule": "one_cycle"}
SOLVED = {"optimizer": "lbfgs"}
ARMS: dict[str, dict[str, Any]] = {
    "adamw, uncached": {**STEPPED, "cache": {"views": EPOCHS}},
    "adamw, 8 views": {**STEPPED, "cache": {"views": 8}},
    "adamw, 4 views": {**STEPPED, "cache": {"views": 4}},
    "adamw, 2 views": {**STEPPED, "cache": {"views": 2}},
    "adamw, 1 view": {**STEPPED, "cache": {"views": 1}},
    "adamw, no augmentation": {**STEPPED, "augment": "none"},
    "lbfgs, 4 views": {**SOLVED, "cache": {"views": 4}},
    "lbfgs, 1 view": {**SOLVED, "cache": {"views": 1}},
    "lbfgs, no augmentation": {**SOLVED, "augment": "none"},
}
FIRST = next(iter(ARMS))


def dealt(images: ImageFolder, seed: int, per_class: int | None) -> Dataset:
    """The images split by `seed`: the test images are the folder's val/, or 15 % where it has none."""
    table, rng = images.table, np.random.default_rng(seed)
    held = (table["split"] == "val").to_numpy() if "split" in table else np.zeros(len(table), bool)
    learning = table[~held]
    if per_class:
        chosen = [rows.iloc[rng.permutation(len(rows))[:per_class]] for _, rows in learning.groupby("class")]
        learning = pd.concat(chosen).sort_index()
    parts = split(learning, 0.15, 0.0 if held.any() else 0.15, seed)
    whole = pd.concat([learning.assign(split=parts), table[held].assign(split="test")])
    return Dataset(images.root, whole, images.classes)


def score(backbone: str, size: int, data: Dataset, seed: int, arm: dict[str, Any]) -> tuple[float, float]:
    """Macro F1 on the test images, and the seconds of learning, tables included."""
    preprocess = {"size": [size, size]}
    classifier = Classifier(backbone, data.classes, seed=seed, preprocess=preprocess, unfreeze={"head": 0})
    clock = time.perf_counter()
    classifier.fit(data, EPOCHS, **{"augment": "light", **arm})
    seconds = time.perf_counter() - clock
    assert data.test is not None
    return classifier.evaluate(data.test).macro_f1 or 0.0, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("backbone")
    parser.add_argument("folders", nargs="+", metavar="NAME=FOLDER[@SIZE][:PER_CLASS/CLASSES]", help="a set of images")
    arguments = parser.parse_args()
    for given in arguments.folders:
        name, _, where = given.partition("=")
        where, _, few = where.partition(":")
        folder, _, size = where.partition("@")
        per_class, _, count = few.partition("/")
        classes = sorted(p.name for p in (Path(folder) / "train").iterdir())[: int(count)] if count else None
        images = ImageFolder(folder, classes=classes)
        found: dict[str, list[float]] = {arm: [] for arm in ARMS}
        times: dict[str, list[float]] = {arm: [] for arm in ARMS}
        for seed in SEEDS:
            data = dealt(images, seed, int(per_class) if per_class else None)
            for title, arm in ARMS.items():
                figure, seconds = score(arguments.backbone, int(size or 224), data, seed, arm)
                found[title].append(figure)
                times[title].append(seconds)
                print(f"{name} seed {seed} {title:24s} {figure:.4f} {seconds:6.1f} s", flush=True)
        for title, figures in found.items():
            gap = np.array(figures) - np.array(found[FIRST])
            half = t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / np.sqrt(len(gap))
            mean, middle = np.mean(figures), np.median(times[title])
            print(f"| {name} | {title} | {mean:.3f} | {gap.mean():+.3f} ± {half:.3f} | {middle:.1f} s |", flush=True)


if __name__ == "__main__":
    main()

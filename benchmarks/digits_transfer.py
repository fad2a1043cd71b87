"""What does transfer buy? The same network on 10, 50 and 200 digits, from scratch and from models/mnist-mlp.

    python benchmarks/digits_transfer.py                                            # 2 minutes on one core
    python benchmarks/digits_transfer.py --draw docs/pictures/digits-transfer.png   # also draws it

scikit-learn's 1,797 digits of 8x8 pixels; 797 of them, the same for all, are only for testing. Each of the five seeds
draws its own training images, equally many of each digit, and its own new head. All arms are trained alike: 100 epochs
of AdamW, the last one counts, so no further images are needed to choose one. Intervals are 95 % over the seeds
(Student's t).

Measured on 2026-11-23 (torch 2.14 on a CPU), accuracy on the 797:

| training images | from scratch | from MNIST, only the head learns | from MNIST, first layer frozen |
| --- | --- | --- | --- |
| 10 | 0.606 ± 0.048 | 0.708 ± 0.065 | 0.711 ± 0.051 |
| 50 | 0.831 ± 0.037 | 0.918 ± 0.018 | 0.919 ± 0.020 |
| 200 | 0.938 ± 0.022 | 0.954 ± 0.010 | 0.960 ± 0.004 |

Without the margin (crop 1.0) nothing is gained: 0.596, 0.840, 0.945 from scratch against 0.653, 0.850, 0.930 with the
first layer frozen. What MNIST taught is about digits of MNIST's size.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import t

from finetune import Classifier, ImageFolder
from finetune.data.dataset import Dataset, ImageSet
from finetune.data.samples.catalogue import write_sample
from finetune.data.split import split
from finetune.files import write_atomic
from finetune.report.plots import BLUE, GREY, RUST, STYLE

COUNTS = (10, 50, 200)
SEEDS = range(5)
TEST_IMAGES = 797
ARMS = {
    "from scratch": {"backbone": "small/mlp", "unfreeze": {"all": 0}},
    "from MNIST, only the head learns": {"backbone": "models/mnist-mlp", "unfreeze": {"head": 0}},
    "from MNIST, first layer frozen": {"backbone": "models/mnist-mlp", "unfreeze": {"head": 0, "last:1": 0}},
}
COLOURS = dict(zip(ARMS, (GREY, RUST, BLUE), strict=True))


def chosen(learning: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """`count` rows, equally many of each class."""
    rng = np.random.default_rng(seed)
    each = count // learning["class"].nunique()
    return pd.concat([rows.iloc[rng.permutation(len(rows))[:each]] for _, rows in learning.groupby("class")])


def accuracy(arm: str, images: pd.DataFrame, evaluated: ImageSet, seed: int) -> float:
    """Train one arm on `images` and evaluate it."""
    # The training images stand in for validation images: what is best on them is, but for ties, the last epoch.
    table = pd.concat([images.assign(split="train"), images.assign(split="val")])
    data = Dataset(evaluated.root, table, evaluated.classes)
    settings = {"lr": 3e-3, "batch_size": 16, "select": "val_loss", "cache": {"disk_gb": 0}}
    # MNIST's digits lie in a margin, 20 of 28 pixels; these fill their 8x8
    classifier = Classifier(classes=evaluated.classes, seed=seed, preprocess={"crop": 1.4}, **ARMS[arm])
    classifier.fit(data, epochs=100, augment="none", **settings)
    found = classifier.evaluate(evaluated).accuracy
    assert found is not None
    return found


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval."""
    spread = values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(t.ppf(0.975, len(values) - 1) * spread)


def measure(folder: Path) -> dict[str, dict[int, np.ndarray]]:
    """Arm → number of training images → accuracy of each seed."""
    write_sample("digits", folder)
    images = ImageFolder(folder)
    parts = split(images.table, 0.01, TEST_IMAGES / len(images), seed=0)
    evaluated = ImageSet(images.root, images.table[parts == "test"], images.classes)
    learning = images.table[parts != "test"]
    found: dict[str, dict[int, np.ndarray]] = {arm: {} for arm in ARMS}
    for count in COUNTS:
        for arm in ARMS:
            scores = [accuracy(arm, chosen(learning, count, seed), evaluated, seed) for seed in SEEDS]
            found[arm][count] = np.array(scores)
            mean, half = interval(found[arm][count])
            print(f"{count:4d} images, {arm:32s} {mean:.3f} ± {half:.3f}", flush=True)
    return found


def table(found: Mapping[str, Mapping[int, np.ndarray]]) -> str:
    """The figures as a Markdown table."""
    lines = ["| training images | " + " | ".join(found) + " |", "| --- " * (len(found) + 1) + "|"]
    for count in COUNTS:
        cells = [interval(found[arm][count]) for arm in found]
        lines.append(f"| {count} | " + " | ".join(f"{mean:.3f} ± {half:.3f}" for mean, half in cells) + " |")
    return "\n".join(lines)


def draw(found: Mapping[str, Mapping[int, np.ndarray]], file: Path) -> None:
    """Accuracy against the number of training images, a line an arm, with intervals and every seed."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        for place, (arm, scores) in enumerate(found.items()):
            at = np.array(COUNTS) * 1.04 ** (place - 1)  # beside each other
            means, halves = np.array([interval(scores[count]) for count in COUNTS]).T
            axes.errorbar(at, means, halves, color=COLOURS[arm], marker="o", markersize=5, capsize=3, label=arm)
            for x, count in zip(at, COUNTS, strict=True):
                axes.plot([x] * len(SEEDS), scores[count], ".", color=COLOURS[arm], alpha=0.35, markersize=4)
        axes.set_xscale("log")
        axes.set_xticks(COUNTS, [str(count) for count in COUNTS])
        axes.minorticks_off()
        axes.set_xlabel("training images")
        axes.set_ylabel("accuracy on 797 others")
        axes.set_title("What transfer buys: 8x8 digits, with and without having seen MNIST")
        axes.legend(loc="lower right")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
        write_atomic(file, buffer.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draw", metavar="FILE", type=Path, help="draw the result into this PNG file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder) / "digits")
    print(f"\n{table(found)}")
    if arguments.draw:
        draw(found, arguments.draw)


if __name__ == "__main__":
    main()

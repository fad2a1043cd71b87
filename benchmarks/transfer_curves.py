"""What is a pretrained backbone worth? Accuracy against images per class, with it and without.

    python benchmarks/transfer_curves.py BACKBONE vehicles=FOLDER sample=FOLDER --draw docs/pictures/transfer-curves.png
    python benchmarks/transfer_curves.py BACKBONE sample --counts 1,50 --seeds 2 --arms frozen,scratch     # a part

BACKBONE is a card with weights. `sample` without a folder that is there is drawn into a temporary one. With `--csv
FILE` each run is kept as it ends, and what is there already is not run again. Three arms: the backbone frozen below a
new head; a probe, then everything tuned; the same architecture from scratch. All learn by AdamW with a one-cycle rate,
for a number of steps rather than epochs, so that one image per class gets enough of them.

The test images are the same throughout: 30 % of each class, or what is not in train/ where the folder is split.
Each seed draws its own training images, equally many of each class (a class that has fewer gives all), a larger count
containing the smaller ones; and its own new weights. Intervals are 95 % over the seeds (Student's t).

One image per class leaves none for validation, so none is used at any count: the last epoch counts, and nothing is
chosen by what is seen. That rules out `optimizer: lbfgs`, which chooses its regularisation on validation images. Given
the training images for that, it chose the weakest each time; a fifth of the images (of two: a half) set apart for it is
missing elsewhere. Macro F1 with 1, 2, 5, 10, 20, 50 and all images per class, heads on features of a published
mobilenetv2_035 at 96 pixels, mean of 3 seeds (100 steps were as good as 300):

| head, learned by | vehicles | sample |
| --- | --- | --- |
| lbfgs, chosen on training images | .38 .55 .72 .77 .83 .87 - | .20 .26 .44 .54 .60 .67 - |
| lbfgs, chosen on a fifth | - .41 .65 .76 .81 .88 .89 | - .22 .44 .54 .59 .66 .68 |
| adamw, 300 steps at 3e-3 | .53 .66 .77 .77 .83 .87 .90 | .27 .37 .47 .56 .61 .66 .68 |

From scratch, too few steps would make transfer look better than it is. A resnet18d at 64 pixels on the sample, one
seed: accuracy 0.29 after 100 steps and 0.27 after 300 with 20 images per class, but 0.41 after 12 epochs and 0.50 after
24 with 50. Hence at least 100 steps and 24 epochs, but these no longer than 500 steps. The tuned arm has half of these
epochs; models/small-resnet at 64 pixels on the sample, all images, two seeds: accuracy 0.51 after 3 epochs, 0.56 after
12, and 0.67 after 12 with the rates of recipes/vehicles-small.yaml.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from digits_transfer import chosen, interval

from finetune import Classifier, ImageFolder
from finetune.data.batches import load_images
from finetune.data.dataset import Dataset, ImageSet
from finetune.data.samples.catalogue import write_sample
from finetune.data.split import split
from finetune.evaluate.evaluation import evaluate_images
from finetune.files import write_atomic
from finetune.recipe.section import train_config
from finetune.report.plots import BLUE, GREY, RUST, drawing, png_bytes

COLUMNS = ["set", "count", "arm", "seed", "accuracy", "macro_f1"]
COUNTS = ("1", "2", "5", "10", "20", "50", "all")
BATCH = 32
MOST = 500
"""Steps that `epochs` of an arm may ask for; more would take most of the time for the last point of a curve."""
KEEP = 2**30
"""Bytes of decoded pictures that stay in memory, of the test images."""


class Arm(NamedTuple):
    """How one arm learns.

    Attributes:
        title: for people.
        colour: of its line.
        weights: default, the backbone's own; or none.
        probe: steps in which the head learns alone.
        tune: steps in which everything learns, at least.
        epochs: in which everything learns, at least; unless they are more than `MOST` steps.
        augment: the random changes of its training images.
        more: other settings of training.
    """

    title: str
    colour: str
    weights: str
    probe: int
    tune: int
    epochs: int
    augment: str
    more: dict[str, Any]


TUNING = {"backbone_lr": 2e-3, "batchnorm": "update"}
ARMS = {
    "frozen": Arm("pretrained, frozen, new head", RUST, "default", 200, 0, 0, "none", {}),
    "tuned": Arm("pretrained, probed, then tuned", BLUE, "default", 100, 100, 12, "light", TUNING),
    "scratch": Arm("same architecture from scratch", GREY, "none", 0, 100, 24, "light", {}),
}


class Images:
    """A set of images: those to learn from, and the test images, which are the same for all."""

    def __init__(self, name: str, folder: Path) -> None:
        images = ImageFolder(folder)
        table = images.table
        own = images.scan.split_layout
        evaluates = table["split"] != "train" if own else split(table, 0.01, 0.3, seed=0) == "test"
        self.name = name
        self.learning = table[~evaluates]
        self.evaluated = ImageSet(images.root, table[evaluates], images.classes)

    def dealt(self, count: str, seed: int) -> Dataset:
        """`count` images per class, or all; one of each class stands in for validation images, and chooses nothing."""
        each = len(self.learning) if count == "all" else int(count)
        images = chosen(self.learning, each * len(self.evaluated.classes), seed)
        table = pd.concat([images.assign(split="train"), images.groupby("class").head(1).assign(split="val")])
        return Dataset(self.evaluated.root, table, self.evaluated.classes)

    def place(self, count: str) -> float:
        """Where a count stands on the axis: all is the mean over the classes."""
        return len(self.learning) / len(self.evaluated.classes) if count == "all" else float(count)


def learned(arm: Arm, backbone: str, size: int | None, data: Dataset, seed: int) -> Classifier:
    """A classifier with the weights of its last epoch."""
    images = len(data.train)
    batches = math.ceil(images / BATCH)
    probe = math.ceil(arm.probe / batches)
    tune = max(math.ceil(arm.tune / batches), min(arm.epochs, MOST // batches))
    classifier = Classifier(
        backbone,
        data.classes,
        weights=arm.weights,
        unfreeze={"head": 0, "all": probe} if tune else {"head": 0},
        preprocess={"size": [size, size]} if size else {},
        seed=seed,
    )
    settings = train_config(
        epochs=probe + tune,
        batch_size=math.ceil(images / batches),  # batches of one size: none is too small for BatchNorm
        lr=3e-3,
        schedule="one_cycle",
        cache={"disk_gb": 0},
        **arm.more,
    )
    for _ in classifier.trainer(data, settings, augment=arm.augment):
        pass
    return classifier


def measure(images: Images, arguments: argparse.Namespace) -> pd.DataFrame:
    """A row a count, arm and seed, with `COLUMNS`."""
    evaluates, rows = None, kept(arguments.csv, images.name)
    for count in arguments.counts:
        for key in arguments.arms:
            clock = time.process_time()
            for seed in range(arguments.seeds):
                if (count, key, seed) in rows:
                    continue
                data = images.dealt(count, seed)
                classifier = learned(ARMS[key], arguments.backbone, arguments.size, data, seed)
                network, compute = classifier.network, classifier.compute.in_fp32()
                evaluates = evaluates or load_images(images.evaluated, network.preprocess, keep=KEEP)
                found = evaluate_images(network, evaluates, compute).metrics
                rows[count, key, seed] = found.accuracy, found.macro_f1
                keep(arguments.csv, [images.name, count, key, seed, found.accuracy, found.macro_f1])
            scores = np.array([rows[count, key, seed] for seed in range(arguments.seeds)])
            seconds = (time.process_time() - clock) / arguments.seeds
            told = f"accuracy {said(scores[:, 0])}  macro F1 {said(scores[:, 1])}"
            print(f"{images.name:10s} {count:>3s} per class  {key:8s} {told}  {seconds:6.1f} s a seed", flush=True)
    wanted = itertools.product(arguments.counts, arguments.arms, range(arguments.seeds))
    return pd.DataFrame([(images.name, *run, *rows[run]) for run in wanted], columns=COLUMNS)


def kept(file: Path | None, name: str) -> dict[tuple[str, str, int], Sequence[float]]:
    """(count, arm, seed) → accuracy and macro F1 of the runs on a set that `file` has."""
    if file is None or not file.exists():
        return {}
    table = pd.read_csv(file, dtype={"count": str})
    rows = table.loc[table["set"] == name, COLUMNS[1:]].itertuples(index=False, name=None)
    return {(count, arm, seed): scores for count, arm, seed, *scores in rows}


def keep(file: Path | None, row: Sequence[Any]) -> None:
    """Add a run to `file`, if there is to be one."""
    if file is not None:
        pd.DataFrame([row], columns=COLUMNS).to_csv(file, mode="a", header=not file.exists(), index=False)


def spread(values: np.ndarray) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval; a single seed has none."""
    return interval(values) if len(values) > 1 else (float(values.mean()), 0.0)


def said(values: np.ndarray) -> str:
    mean, half = spread(values)
    return f"{mean:.3f} ± {half:.3f}" if half else f"{mean:.3f}"


def table(found: pd.DataFrame, figure: str) -> str:
    """One figure of one set as a Markdown table."""
    arms = list(found["arm"].unique())
    lines = ["| images per class | " + " | ".join(ARMS[arm].title for arm in arms) + " |", "| --- " * (len(arms) + 1)]
    lines[1] += "|"
    for count, rows in found.groupby("count", sort=False):
        cells = [said(rows.loc[rows["arm"] == arm, figure].to_numpy()) for arm in arms]
        lines.append(f"| {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(found: pd.DataFrame, sets: Sequence[Images], file: Path) -> None:
    """Accuracy against images per class: a panel a set, a line an arm, with intervals and every seed."""
    counts = list(found["count"].unique())
    with drawing(4.6 * len(sets), 3.8) as figure:
        panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
        for axes, images in zip(panels, sets, strict=True):
            at = np.array([images.place(count) for count in counts])
            here = found[found["set"] == images.name]
            for shift, (key, rows) in enumerate(here.groupby("arm", sort=False)):
                arm, x = ARMS[str(key)], at * 1.04 ** (shift - 1)  # beside each other
                scores = [rows.loc[rows["count"] == count, "accuracy"].to_numpy() for count in counts]
                means, halves = np.array([spread(values) for values in scores]).T
                axes.errorbar(x, means, halves, color=arm.colour, marker="o", markersize=4, capsize=3, label=arm.title)
                for place, values in zip(x, scores, strict=True):
                    axes.plot([place] * len(values), values, ".", color=arm.colour, alpha=0.35, markersize=4)
            rate = images.evaluated.base_rate()[1]
            axes.axhline(rate, color=GREY, linestyle=(0, (2, 3)), linewidth=1, label="always the largest class")
            axes.set_xscale("log")
            axes.set_xticks(at, counts)
            axes.minorticks_off()
            axes.set_xlabel("training images per class")
            axes.set_title(f"{images.name}: {len(images.evaluated)} test images")
        panels[-1].legend()
        panels[0].set_ylabel("accuracy")
        panels[0].set_ylim(0, 1)
        write_atomic(file, png_bytes(figure))


def listed(known: Sequence[str], text: str) -> list[str]:
    """Those of `known` that `text` names, with commas between them."""
    wanted = text.split(",")
    if unknown := set(wanted) - set(known):
        raise SystemExit(f"{', '.join(sorted(unknown))}: not known; known are {', '.join(known)}")
    return [one for one in known if one in wanted]


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("backbone", help="a card with weights")
    parser.add_argument("sets", nargs="+", metavar="NAME=FOLDER", help="images; `sample` is drawn where it is absent")
    parser.add_argument("--counts", default=",".join(COUNTS), help="images per class (default: %(default)s)")
    parser.add_argument("--arms", default=",".join(ARMS), help="(default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="how many (default: %(default)s)")
    parser.add_argument("--size", type=int, help="of the images, in pixels (default: the card's)")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="keep each run in this file, and do not repeat it")
    parser.add_argument("--draw", metavar="FILE", type=Path, help="draw the result into this PNG file")
    arguments = parser.parse_args()
    arguments.counts, arguments.arms = listed(COUNTS, arguments.counts), listed(list(ARMS), arguments.arms)
    return arguments


def main() -> None:
    arguments = asked()
    with ExitStack() as stack:
        sets = []
        for given in arguments.sets:
            name, _, folder = given.partition("=")
            if name == "sample" and not (folder and Path(folder).is_dir()):
                folder = str(Path(stack.enter_context(tempfile.TemporaryDirectory())) / name)
                write_sample("vehicles", Path(folder))
            sets.append(Images(name, Path(folder)))
        found = pd.concat([measure(images, arguments) for images in sets], ignore_index=True)
    for images in sets:
        here = found[found["set"] == images.name]
        for figure, title in (("accuracy", "accuracy"), ("macro_f1", "macro F1")):
            print(f"\n{images.name}, {title} on {len(images.evaluated)} images:\n\n{table(here, figure)}")
    if arguments.draw:
        draw(found, sets, arguments.draw)


if __name__ == "__main__":
    main()

"""How hard is the drawn sample? What colour, place and shape give away, measured.

    python benchmarks/sample_hardness.py                # about 2 minutes on one core
    python benchmarks/sample_hardness.py --seeds 3      # three splits: mean and range

Draws the sample into a temporary folder, splits it 75/25 (stratified), and trains what knows less than a CNN and a
small CNN on the same images. A sample is worth having if colours are worth no more than guessing, a network on raw
pixels is clearly worse than the CNN, and the CNN from scratch leaves room for one that has learned before.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional

from finetune.data.samples.vehicles import draw

Pictures = NDArray[np.uint8]
Labels = NDArray[np.int64]
Judge = Callable[[Pictures, Labels, Pictures, int], Labels]


def load(folder: Path, names: list[str], size: int) -> tuple[Pictures, Labels]:
    """All pictures as (n, size, size, 3) uint8 and their class numbers (n,)."""
    files = [(path, label) for label, name in enumerate(names) for path in sorted((folder / name).iterdir())]
    pictures = [
        np.asarray(Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BOX)) for path, _ in files
    ]
    return np.stack(pictures), np.array([label for _, label in files], dtype=np.int64)


# --- what knows less than a CNN --------------------------------------------------------------------------------------


def mean_colours(pictures: Pictures) -> NDArray[np.float64]:
    """Mean and standard deviation of each channel: (n, 6)."""
    return np.concatenate([pictures.mean((1, 2)), pictures.std((1, 2))], axis=1)


def histogram(pictures: Pictures) -> NDArray[np.float64]:
    """Shares of 4 x 4 x 4 colours: (n, 64)."""
    cells = (pictures // 64).astype(np.int64) @ np.array([16, 4, 1])
    return np.stack([np.bincount(c.ravel(), minlength=64) / c.size for c in cells])


def pixels(pictures: Pictures) -> NDArray[np.float64]:
    """The pixels at 32 x 32: (n, 3072)."""
    small = [np.asarray(Image.fromarray(p).resize((32, 32), Image.Resampling.BOX)) for p in pictures]
    return np.stack(small).reshape(len(small), -1) / 255.0


def logistic(features: Callable[[Pictures], NDArray[np.float64]], penalty: float) -> Judge:
    """Logistic regression on standardised features, with a strong penalty."""

    def judge(train: Pictures, labels: Labels, test: Pictures, seed: int) -> Labels:
        model = LogisticRegression(C=penalty, max_iter=300)
        fitted = make_pipeline(StandardScaler(), model).fit(features(train), labels)
        return np.asarray(fitted.predict(features(test)))

    return judge


def mlp(train: Pictures, labels: Labels, test: Pictures, seed: int) -> Labels:
    """A perceptron with hidden layers of 256 and 64 on 32 x 32 pixels; each image is also seen mirrored."""
    both, twice = np.concatenate([train, train[:, :, ::-1]]), np.concatenate([labels, labels])
    network = MLPClassifier(
        (256, 64), alpha=1e-2, max_iter=100, early_stopping=True, n_iter_no_change=15, random_state=seed
    )
    fitted = make_pipeline(StandardScaler(), network).fit(pixels(both), twice)
    return np.asarray(fitted.predict(pixels(test)))


# --- the small CNN ---------------------------------------------------------------------------------------------------


def network(classes: int) -> nn.Module:
    """Five 3 x 3 convolutions, 24 to 128 channels, with BatchNorm; mean over the picture; one linear layer."""
    layers: list[nn.Module] = []
    before = 3
    for channels in (24, 48, 64, 96, 128):
        layers += [
            nn.Conv2d(before, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        before = channels
    layers[-1] = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(before, classes))


def cnn(epochs: int) -> Judge:
    """The network above, AdamW, one-cycle learning rate; mirrored and shifted at random."""

    def judge(train: Pictures, labels: Labels, test: Pictures, seed: int) -> Labels:
        torch.manual_seed(seed)
        x, y, model = _tensor(train), torch.from_numpy(labels), network(int(labels.max()) + 1)
        batches = [torch.randperm(len(x)).split(32) for _ in range(epochs)]
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
        steps = sum(len(epoch) for epoch in batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
        for batch in (b for epoch in batches for b in epoch if len(b) > 1):
            loss = functional.cross_entropy(model(_augmented(x[batch])), y[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            return np.asarray(model(_tensor(test)).argmax(1))

    return judge


def _tensor(pictures: Pictures) -> torch.Tensor:
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25


def _augmented(images: torch.Tensor) -> torch.Tensor:
    flip = torch.rand(len(images)) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    down, right = torch.randint(-6, 7, (2,)).tolist()
    return images.roll((down, right), (2, 3))


# --- the table -------------------------------------------------------------------------------------------------------


def main() -> None:
    """Print accuracy and macro F1 of each, over the seeds."""
    parser = argparse.ArgumentParser(description="How hard is the drawn sample?")
    parser.add_argument("--seeds", type=int, default=1, help="splits (and initial weights) to try")
    parser.add_argument("--epochs", type=int, default=28, help="of the small CNN")
    parser.add_argument("--per-class", type=int, default=120)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    judges: dict[str, Judge] = {
        "mean colours, logistic": logistic(mean_colours, 1.0),
        "colour histogram, logistic": logistic(histogram, 0.1),
        "32x32 pixels, logistic": logistic(pixels, 1e-3),
        "32x32 pixels, MLP": mlp,
        "small CNN from scratch": cnn(args.epochs),
    }
    with tempfile.TemporaryDirectory() as temporary:
        start = time.perf_counter()
        names = draw(Path(temporary) / "vehicles", per_class=args.per_class)
        drawn = time.perf_counter() - start
        print(f"{len(names)} classes x {args.per_class}, drawn in {drawn:.1f} s; chance {1 / len(names):.3f}")
        pictures, labels = load(Path(temporary) / "vehicles", names, 80)
    for title, judge in judges.items():
        start = time.perf_counter()
        scores = [score(judge, pictures, labels, seed, names) for seed in range(args.seeds)]
        seconds = (time.perf_counter() - start) / args.seeds
        accuracy, f1 = np.array([s[:2] for s in scores]).T
        f1_said = f"macro F1 {f1.mean():.3f} ({f1.min():.3f}-{f1.max():.3f})"
        print(f"{title:28s} accuracy {accuracy.mean():.3f}  {f1_said}  {seconds:6.1f} s", flush=True)
    print("F1 by class of the last:", ", ".join(f"{n} {v:.2f}" for n, v in zip(names, scores[-1][2], strict=True)))


def score(
    judge: Judge, pictures: Pictures, labels: Labels, seed: int, names: list[str]
) -> tuple[float, float, list[float]]:
    """Accuracy, macro F1 and F1 by class on a quarter of the images."""
    train, test = train_test_split(np.arange(len(labels)), test_size=0.25, stratify=labels, random_state=seed)
    told = judge(pictures[train], labels[train], pictures[test], seed)
    by_class = f1_score(labels[test], told, average=None, labels=list(range(len(names))), zero_division=0)
    return float(accuracy_score(labels[test], told)), float(np.mean(by_class)), [float(v) for v in by_class]


if __name__ == "__main__":
    main()

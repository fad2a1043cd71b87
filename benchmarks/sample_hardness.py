"""How hard is the drawn sample? What colour, place and shape give away, measured.

    python benchmarks/sample_hardness.py                # about 2 minutes on one core
    python benchmarks/sample_hardness.py --seeds 3      # three splits: mean and range
    python benchmarks/sample_hardness.py --seeds 5 --backbone models/NAME.yaml [--folder FOLDER]

Draws the sample into a temporary folder, splits it 75/25 (stratified), and trains what knows less than a CNN and a
small CNN on the same images. A sample is worth having if colours are worth no more than guessing, a network on raw
pixels is clearly worse than the CNN, and the CNN from scratch leaves room for one that has learned before.

With --backbone also: a new head on that backbone, frozen, with its weights and with random ones; and all of it trained
as the small CNN is, from random weights and from its own. So what the weights know is told apart from what the
architecture does. --folder tries them on a folder of classes instead of the drawn sample. A Markdown table ends it.
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
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional

from finetune.data.samples.vehicles import draw
from finetune.model.backbones import build
from finetune.model.network import Network

Pictures = NDArray[np.uint8]
Labels = NDArray[np.int64]
Method = Callable[[Pictures, Labels, Pictures, int], Labels]
View = Callable[[Image.Image], Pictures]


def load(folder: Path, names: list[str], view: View) -> tuple[Pictures, Labels]:
    """All pictures as (n, size, size, 3) uint8 and their class numbers (n,)."""
    files = [(path, label) for label, name in enumerate(names) for path in sorted((folder / name).iterdir())]
    pictures = [view(Image.open(path).convert("RGB")) for path, _ in files]
    return np.stack(pictures), np.array([label for _, label in files], dtype=np.int64)


def squeezed(image: Image.Image) -> Pictures:
    """The whole picture at 80 x 80."""
    return np.asarray(image.resize((80, 80), Image.Resampling.BOX))


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


def logistic(features: Callable[[Pictures], NDArray[np.float64]], penalty: float) -> Method:
    """Logistic regression on standardised features, with a strong penalty."""

    def method(train: Pictures, labels: Labels, test: Pictures, seed: int) -> Labels:
        model = LogisticRegression(C=penalty, max_iter=300)
        fitted = make_pipeline(StandardScaler(), model).fit(features(train), labels)
        return np.asarray(fitted.predict(features(test)))

    return method


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


def cnn(epochs: int, make: Callable[[int, int], nn.Module] = lambda classes, seed: network(classes)) -> Method:
    """The network above, or another; AdamW, one-cycle learning rate; mirrored and shifted at random."""

    def method(train: Pictures, labels: Labels, test: Pictures, seed: int) -> Labels:
        torch.manual_seed(seed)
        x, y, model = _tensor(train), torch.from_numpy(labels), make(int(labels.max()) + 1, seed)
        model.train()
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
            return np.asarray(torch.cat([model(part) for part in _tensor(test).split(64)]).argmax(1))

    return method


def _tensor(pictures: Pictures) -> torch.Tensor:
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25


def _augmented(images: torch.Tensor) -> torch.Tensor:
    flip = torch.rand(len(images)) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    down, right = torch.randint(-6, 7, (2,)).tolist()
    return images.roll((down, right), (2, 3))


# --- a backbone ------------------------------------------------------------------------------------------------------


def frozen(card: str, weights: str) -> Method:
    """Logistic regression on the standardised features of a backbone, its penalty chosen by cross-validation."""

    def method(train: Pictures, labels: Labels, test: Pictures, seed: int) -> Labels:
        network = build(card, ["any", "other"], weights=weights, seed=seed)
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
        search = GridSearchCV(model, {"logisticregression__C": np.logspace(-4, 0, 5)}, cv=3, scoring="f1_macro")
        fitted = search.fit(features(network, train), labels)
        return np.asarray(fitted.predict(features(network, test)))

    return method


def begun(card: str, weights: str) -> Callable[[int, int], nn.Module]:
    """Makes the network of a card with `weights` (none: random ones) and a new head."""
    return lambda classes, seed: build(card, [str(n) for n in range(classes)], weights=weights, seed=seed).module


def features(network: Network, pictures: Pictures) -> NDArray[np.float32]:
    """What reaches the head: (n, features)."""
    reached: list[torch.Tensor] = []
    module = network.module.eval()
    handle = module.get_submodule(network.heads[0]).register_forward_pre_hook(lambda _, given: reached.append(given[0]))
    with torch.no_grad():
        for part in torch.from_numpy(pictures).split(64):
            module(network.preprocess.normalise(part))
    handle.remove()
    return torch.cat(reached).flatten(1).numpy()


# --- the table -------------------------------------------------------------------------------------------------------


def methods_of(args: argparse.Namespace) -> dict[str, tuple[Method, View]]:
    """Title → a method, and how it sees a picture."""
    methods: dict[str, tuple[Method, View]] = {
        "mean colours, logistic": (logistic(mean_colours, 1.0), squeezed),
        "colour histogram, logistic": (logistic(histogram, 0.1), squeezed),
        "32x32 pixels, logistic": (logistic(pixels, 1e-3), squeezed),
        "32x32 pixels, MLP": (mlp, squeezed),
        "small CNN from scratch": (cnn(args.epochs), squeezed),
    }
    if args.backbone:
        view = build(args.backbone, ["any", "other"], weights="none").preprocess.evaluate
        methods["backbone, random, new head"] = (frozen(args.backbone, "none"), view)
        methods["backbone from scratch"] = (cnn(args.epochs, begun(args.backbone, "none")), view)
        methods["backbone, frozen, new head"] = (frozen(args.backbone, "default"), view)
        methods["backbone, all of it tuned"] = (cnn(args.epochs, begun(args.backbone, "default")), view)
    return methods


def prepared(args: argparse.Namespace, temporary: str) -> tuple[Path, list[str]]:
    """The folder of images, drawn where none is given, and its classes."""
    if args.folder:
        return args.folder, sorted(path.name for path in args.folder.iterdir() if path.is_dir())
    folder, start = Path(temporary) / "vehicles", time.perf_counter()
    names = draw(folder, per_class=args.per_class)
    print(f"{len(names)} classes x {args.per_class}, drawn in {time.perf_counter() - start:.1f} s", end="; ")
    print(f"chance {1 / len(names):.3f}")
    return folder, names


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How hard is the drawn sample?")
    parser.add_argument("--seeds", type=int, default=1, help="splits (and initial weights) to try")
    parser.add_argument("--epochs", type=int, default=28, help="of what learns from scratch")
    parser.add_argument("--per-class", type=int, default=120)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backbone", metavar="CARD", help="a card with weights: try these, too")
    parser.add_argument("--folder", type=Path, help="a folder of classes, instead of the drawn sample")
    return parser.parse_args()


def main() -> None:
    """Print accuracy and macro F1 of each, over the seeds."""
    args = asked()
    torch.set_num_threads(args.threads)
    methods = methods_of(args)
    with tempfile.TemporaryDirectory() as temporary:
        folder, names = prepared(args, temporary)
        seen = {view: load(folder, names, view) for view in {view: None for _, view in methods.values()}}
    lines = ["| | accuracy | macro F1 | range |", "| --- | --- | --- | --- |"]
    for title, (method, view) in methods.items():
        start = time.perf_counter()
        scores = [score(method, *seen[view], seed, names) for seed in range(args.seeds)]
        seconds = (time.perf_counter() - start) / args.seeds
        accuracy, f1 = np.array([s[:2] for s in scores]).T
        f1_said = f"macro F1 {f1.mean():.3f} ({f1.min():.3f}-{f1.max():.3f})"
        print(f"{title:28s} accuracy {accuracy.mean():.3f}  {f1_said}  {seconds:6.1f} s", flush=True)
        lines.append(f"| {title} | {accuracy.mean():.3f} | {f1.mean():.3f} | {f1.min():.3f} to {f1.max():.3f} |")
    print("F1 by class of the last:", ", ".join(f"{n} {v:.2f}" for n, v in zip(names, scores[-1][2], strict=True)))
    print("\n" + "\n".join(lines))


def score(
    method: Method, pictures: Pictures, labels: Labels, seed: int, names: list[str]
) -> tuple[float, float, list[float]]:
    """Accuracy, macro F1 and F1 by class on a quarter of the images."""
    train, test = train_test_split(np.arange(len(labels)), test_size=0.25, stratify=labels, random_state=seed)
    told = method(pictures[train], labels[train], pictures[test], seed)
    by_class = f1_score(labels[test], told, average=None, labels=list(range(len(names))), zero_division=0)
    return float(accuracy_score(labels[test], told)), float(np.mean(by_class)), [float(v) for v in by_class]


if __name__ == "__main__":
    main()

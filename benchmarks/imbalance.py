"""What should a solved head do where one class has fifty times the images of another?

    FINETUNE_DATA=DIR python benchmarks/imbalance.py --work DIR     # minutes on two cores, features and all

Three of the nine sets, thinned so that the images a class fall off geometrically, 10:1 and 50:1, which class is rare
drawn by the seed. Compared are priors as they are, equal priors, weights that balance the classes, and priors taken
off the logits (Menon et al. 2021, "Long-tail learning via logit adjustment") as far as macro F1 out of fold asks for.

The test images of a class weigh as much as the class does in training: those are the figures of a test split of the
same folder. In brackets, all classes alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from nine_sets import SETS, dealt, features_of, require_sets
from sklearn.metrics import f1_score

from finetune.evaluate.calibrate import fit_temperature
from finetune.evaluate.metrics import ECE_BINS, confidence_bins, probabilities
from finetune.train.head_solver import Solved, solve_head

RATIOS = (10, 50)
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the adjustment that is tried: 0 is none, 1 takes the priors off."""

Answers = Callable[[np.ndarray], np.ndarray]


def thinned(rows: np.ndarray, labels: np.ndarray, ratio: int, seed: int) -> np.ndarray:
    """Of the rows so many of each class that their numbers fall off geometrically from all to 1/ratio, at least one."""
    rng, classes = np.random.default_rng(seed), np.unique(labels[rows])
    most = min(int((labels[rows] == label).sum()) for label in classes)
    sizes = most * ratio ** -np.linspace(0.0, 1.0, len(classes))
    kept = [
        rng.permutation(rows[labels[rows] == label])[: max(1, round(size))]
        for label, size in zip(rng.permutation(classes), sizes, strict=True)
    ]
    return np.concatenate(kept)


# --- what is compared ------------------------------------------------------------------------------------------------


def head_of(x: np.ndarray, y: np.ndarray, widths: tuple[int, ...], weights: np.ndarray | None = None) -> Solved:
    offers = (1, len(widths))
    classes = int(y.max()) + 1
    weighed = None if weights is None else [float(weight) for weight in weights]
    return solve_head(x, y, np.arange(len(y)), widths, classes=classes, offers=offers, class_weights=weighed)


def answers_of(head: Solved, y: np.ndarray, offset: np.ndarray | float = 0.0) -> Answers:
    """Probabilities of new rows, with an offset of the logits, at the temperature that fits out of fold."""
    temperature = fit_temperature(head.logits + offset, y)
    weight, bias = head.weight.numpy(), head.bias.numpy()
    return lambda new: probabilities(new[:, -head.features :] @ weight.T + bias + offset, "cross_entropy", temperature)


def adjusted(head: Solved, y: np.ndarray, shares: np.ndarray) -> Answers:
    """Priors taken off calibrated answers, as far as gives the best macro F1 out of fold; the least of equals."""
    known = probabilities(head.logits, "cross_entropy", fit_temperature(head.logits, y))

    def scored(strength: float) -> float:
        return float(f1_score(y, (known / shares**strength).argmax(axis=1), average="macro"))

    best = max(STRENGTHS, key=scored)
    plain = answers_of(head, y)

    def answers(new: np.ndarray) -> np.ndarray:
        odds = plain(new) / shares**best
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))

    return answers


def arms(x: np.ndarray, y: np.ndarray, widths: tuple[int, ...]) -> dict[str, Answers]:
    counts = np.bincount(y)
    shares = counts / len(y)
    head = head_of(x, y, widths)
    return {
        "as it is": answers_of(head, y),
        "equal priors": answers_of(head, y, -head.sharpness * np.log(shares)),
        "balanced weights": answers_of(head_of(x, y, widths, len(y) / (len(counts) * counts)), y),
        "adjusted by cross-validation": adjusted(head, y, shares),
    }


# --- the figures -----------------------------------------------------------------------------------------------------


def evaluated(answers: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """Macro F1, log-loss and calibration error, with weights of the images."""
    named, confidence = answers.argmax(axis=1), answers.max(axis=1)
    right = np.maximum(answers[np.arange(len(y)), y], 1e-300)
    bins = confidence_bins(confidence, ECE_BINS)
    gaps = np.bincount(bins, weights=weights * ((named == y) - confidence), minlength=ECE_BINS)
    return (
        float(f1_score(y, named, average="macro", sample_weight=weights)),
        float(-(np.log(right) * weights).sum() / weights.sum()),
        float(np.abs(gaps).sum() / weights.sum()),
    )


def cell(found: dict[str, np.ndarray], seed: int, ratio: int) -> dict[str, np.ndarray]:
    """Arm → its figures, [as in training or all alike, figure]."""
    learning, test = dealt(found, seed, None)
    y, x = found["y"], found["x"].astype(np.float32)
    rows = thinned(learning, y, ratio, seed)
    shares = np.bincount(y[rows]) / len(rows)
    alike = 1 / np.bincount(y[test])[y[test]]
    found_arms = arms(x[rows], y[rows], tuple(int(width) for width in found["widths"]))
    return {
        name: np.array([evaluated(answers(x[test]), y[test], weights) for weights in (alike * shares[y[test]], alike)])
        for name, answers in found_arms.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/defaults"), help="where features are [runs/defaults]")
    parser.add_argument("--backbone", default="models/efficientnet-lite0")
    parser.add_argument("--sets", nargs="*", default=["textures", "flowers", "clothes"], choices=SETS)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    asked = parser.parse_args()
    require_sets(asked.sets)
    print("| ratio | set | head | macro F1 | log-loss | ECE |\n| --- | --- | --- | --- | --- | --- |")
    for ratio in RATIOS:
        every = []
        for name in asked.sets:
            found = features_of(name, asked.backbone, asked.work)
            cells = [cell(found, seed, ratio) for seed in asked.seeds]
            every.append({arm: np.mean([one[arm] for one in cells], axis=0) for arm in cells[0]})
            show(ratio, name, every[-1])
        show(ratio, "mean", {arm: np.mean([one[arm] for one in every], axis=0) for arm in every[0]})


def show(ratio: int, name: str, figures: dict[str, np.ndarray]) -> None:
    for arm, (own, alike) in figures.items():
        columns = [f"{ours:.3f} ({theirs:.3f})" for ours, theirs in zip(own, alike, strict=True)]
        print(f"| {ratio}:1 | {name} | {arm} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()

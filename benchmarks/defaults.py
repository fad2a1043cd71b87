"""How good is the classifier that a folder gives with no option at all, and what does each part of that add?

    FINETUNE_DATA=DIR python benchmarks/defaults.py --work DIR --table docs/defaults.md     # an hour on two cores

Nine sets of photographs and drawings, each split three times, at 5, 10, 50 and all images a class. The frozen network
looks at every image once (kept in the work folder); what is compared is what is made of that. Every finished cell is a
line of results.jsonl in the work folder, so that a stopped benchmark goes on where it was; --table writes the page from
the lines that are there. The first split of a set that has a test/ or val/ of its own is that one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from nine_sets import SETS, dealt, features_of, require_sets
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from finetune.evaluate.calibrate import ece_of_the_calibrated, fit_temperature
from finetune.evaluate.metrics import calibration_error, probabilities
from finetune.files import write_text
from finetune.train.head_solver import Solved, solve_head

SHOTS = {"5": 5, "10": 10, "50": 50, "all": None}
SEEDS = range(3)
FIGURES = {"macro_f1": "macro F1", "loss": "log-loss", "ece": "ECE", "ece_if_true": "if true", "seconds": "seconds"}

Answers = Callable[[np.ndarray], np.ndarray]


# --- what is compared ------------------------------------------------------------------------------------------------


def logits_of(head: Solved, x: np.ndarray) -> np.ndarray:
    return x[:, -head.features :] @ head.weight.numpy().T + head.bias.numpy()


def solved(x: np.ndarray, y: np.ndarray, widths: tuple[int, ...], classes: int, offers: tuple[int, ...]) -> Answers:
    """The head of `finetune run FOLDER`, or one without a part of it; probabilities for new rows."""
    weights = len(y) / (classes * np.bincount(y, minlength=classes))
    head = solve_head(x, y, np.arange(len(y)), widths, classes=classes, offers=offers, class_weights=weights.tolist())
    temperature = fit_temperature(head.logits, y)
    return lambda new: probabilities(logits_of(head, new), "cross_entropy", temperature)


def five_lines(x: np.ndarray, y: np.ndarray) -> Answers:
    """What a notebook has: scikit-learn on the network's last output."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, y)
    return lambda new: np.asarray(model.predict_proba(new))


def tutorial_loop(x: np.ndarray, y: np.ndarray, classes: int, epochs: int = 25) -> Answers:
    """PyTorch's transfer-learning tutorial with a frozen network: SGD, momentum, batches of 4, a rate that falls twice.

    On the network's last output, so without the tutorial's augmentation.
    """
    torch.manual_seed(0)
    rows, labels, head = torch.from_numpy(x), torch.from_numpy(y), torch.nn.Linear(x.shape[1], classes)
    optimizer = torch.optim.SGD(head.parameters(), lr=1e-3, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    for _ in range(epochs):
        for batch in torch.randperm(len(rows)).split(4):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(head(rows[batch]), labels[batch]).backward()
            optimizer.step()
        schedule.step()
    return lambda new: torch.softmax(head(torch.from_numpy(new)), dim=1).detach().double().numpy()


def by_own_deviation(x: np.ndarray, y: np.ndarray, widths: tuple[int, ...], classes: int) -> Answers:
    """The same head with every feature scaled by its own deviation, however small that is."""
    spread = x.std(axis=0)
    spread[spread == 0] = 1.0
    found = solved(x / spread, y, widths, classes, (1, len(widths)))
    return lambda new: found(new / spread)


def on_last(learn: Callable[[np.ndarray], Answers], x: np.ndarray, width: int) -> Answers:
    """What learns from the last output alone, and is asked with all columns."""
    found = learn(np.ascontiguousarray(x[:, -width:]))
    return lambda new: found(np.ascontiguousarray(new[:, -width:]))


def without_refit(x: np.ndarray, y: np.ndarray, widths: tuple[int, ...], classes: int) -> Answers:
    """The same head from three quarters of the images, as if the rest were kept for validation."""
    keep = np.ones(len(y), dtype=bool)
    for label in range(classes):
        rows = np.flatnonzero(y == label)
        keep[rows[: len(rows) // 4]] = False
    return solved(x[keep], y[keep], widths, classes, (1, len(widths)))


def arms(x: np.ndarray, y: np.ndarray, widths: tuple[int, ...], classes: int) -> dict[str, Callable[[], Answers]]:
    """Name → what learns from the rows."""
    return {
        "default": lambda: solved(x, y, widths, classes, (1, len(widths))),
        "stages always": lambda: solved(x, y, widths, classes, (len(widths),)),
        "last output only": lambda: solved(x, y, widths, classes, (1,)),
        "without refit": lambda: without_refit(x, y, widths, classes),
        "scaled by own deviations": lambda: by_own_deviation(x, y, widths, classes),
        "five lines of scikit-learn": lambda: on_last(lambda last: five_lines(last, y), x, widths[-1]),
        "the tutorial's loop": lambda: on_last(lambda last: tutorial_loop(last, y, classes), x, widths[-1]),
    }


def evaluated(answers: np.ndarray, y: np.ndarray) -> dict[str, float]:
    right = np.maximum(answers[np.arange(len(y)), y], 1e-300)
    return {
        "macro_f1": float(f1_score(y, answers.argmax(axis=1), average="macro")),
        "loss": float(-np.log(right).mean()),
        "ece": float(calibration_error(y, answers) or 0.0),
        "ece_if_true": ece_of_the_calibrated(answers),
    }


def cell(found: dict[str, np.ndarray], seed: int, shots: int | None) -> dict[str, dict[str, float]]:
    """All arms on one split of one set."""
    learning, test = dealt(found, seed, shots)
    widths, classes = tuple(int(width) for width in found["widths"]), len(found["classes"])
    x, y = found["x"].astype(np.float32), found["y"]
    results = {}
    for name, learn in arms(x[learning], y[learning], widths, classes).items():
        start = time.process_time()
        answers = learn()
        seconds = time.process_time() - start
        results[name] = {**evaluated(answers(x[test]), y[test]), "seconds": seconds}
    return results


# --- the table -------------------------------------------------------------------------------------------------------


def page(lines: list[dict], backbone: str) -> str:
    """The results as a page: a table for each number of images a class, a row an arm."""
    sets = [name for name in SETS if any(line["set"] == name for line in lines)]
    text = [HEAD.format(date=time.strftime("%Y-%m-%d"), backbone=backbone, sets=len(sets))]
    for shots in SHOTS:
        cells = [line for line in lines if line["shots"] == shots]
        if cells:
            means = {arm: means_of(cells, arm) for arm in cells[0]["arms"]}
            text += [f"\n## {f'{shots} images a class' if shots != 'all' else 'all images'}\n"]
            text += [*table(means, sets), "", shortfall(means)]
    return "\n".join(text) + "\n"


Means = dict[str, dict[str, float]]
"""Figure → set → its mean over the splits; `spread` is the standard deviation of the macro F1 over them."""


def means_of(cells: list[dict], arm: str) -> Means:
    own: dict[str, list[dict[str, float]]] = {}
    for line in cells:
        own.setdefault(line["set"], []).append(line["arms"][arm])
    found = {key: {name: float(np.mean([one[key] for one in rows])) for name, rows in own.items()} for key in FIGURES}
    found["spread"] = {name: float(np.std([one["macro_f1"] for one in rows], ddof=1)) for name, rows in own.items()}
    return found


def table(means: dict[str, Means], sets: list[str]) -> list[str]:
    """The rows of one number of images a class."""
    rows = [f"| | mean | spread | {' | '.join(sets)} | worst | {' | '.join(list(FIGURES.values())[1:])} |"]
    rows.append("| --- |" + " --- |" * (len(sets) + 2 + len(FIGURES)))
    for arm, own in means.items():
        scores = own["macro_f1"]
        row = [f"{np.mean(list(scores.values())):.3f}", f"{np.mean(list(own['spread'].values())):.3f}"]
        row += [f"{scores[name]:.3f}" if name in scores else "" for name in sets]
        row += [f"{min(scores.values()):.3f}"]
        row += [f"{np.mean(list(own[key].values())):.{1 if key == 'seconds' else 3}f}" for key in list(FIGURES)[1:]]
        rows.append(f"| {arm} | {' | '.join(row)} |")
    return rows


def shortfall(means: dict[str, Means]) -> str:
    """By how much the default is below what is best on a set, where that is most."""
    ours, *others = [own["macro_f1"] for own in means.values()]
    below = {name: max(other[name] for other in others) - ours[name] for name in ours}
    worst = max(below, key=lambda name: below[name])
    return f"The default against the best of the other rows, set by set: at worst {-below[worst]:+.3f} ({worst})."


HEAD = """# What a folder gives without any option

`finetune run FOLDER` keeps the best network at hand frozen ({backbone}) and solves a head on what it makes of the
images. How good that is, and what its parts add: macro F1 on images kept apart, mean of the splits of each of {sets}
sets, with its spread (standard deviation over the splits of a set, mean of the sets), the worst set, the log-loss, the
calibration error (ECE, 15 bins), what that would be on average if every confidence were true (so few images never show
0), and the processor seconds of the head alone.
Written by `benchmarks/defaults.py`, {date}.

*default* chooses by cross-validation between the last output and that with the last three stages, learns from all
images but those of the test, every class with the same weight, and takes its sharpness from answers out of fold. The
others leave a part out; the last two are what a notebook has, on the same network's last output. A log-loss of inf: to
the true class of some image it gave a probability of 0."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/defaults"), help="features and results [runs/defaults]")
    parser.add_argument("--backbone", default="models/efficientnet-lite0")
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=SETS)
    parser.add_argument("--shots", nargs="*", default=list(SHOTS), choices=list(SHOTS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--table", type=Path, help="write the page here")
    asked = parser.parse_args()
    require_sets(asked.sets)
    results = asked.work / f"{Path(asked.backbone).stem}.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []
    done = {(line["set"], line["shots"], line["seed"]) for line in lines}
    for name in asked.sets:
        found = features_of(name, asked.backbone, asked.work)
        for shots in asked.shots:
            for seed in asked.seeds:
                if (name, shots, seed) in done:
                    continue
                lines.append({"set": name, "shots": shots, "seed": seed, "arms": cell(found, seed, SHOTS[shots])})
                with open(results, "a", encoding="utf-8") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
                print(
                    name,
                    shots,
                    seed,
                    {arm: round(v["macro_f1"], 3) for arm, v in lines[-1]["arms"].items()},
                    flush=True,
                )
    if asked.table:
        write_text(asked.table, page(lines, Path(asked.backbone).stem))
    return 0


if __name__ == "__main__":
    sys.exit(main())

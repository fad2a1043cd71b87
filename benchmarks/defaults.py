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
import os
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from finetune import ImageFolder
from finetune.data.batches import load_images
from finetune.data.samples.catalogue import write_sample
from finetune.evaluate.calibrate import fit_temperature
from finetune.evaluate.metrics import calibration_error, probabilities
from finetune.files import write_text
from finetune.model.backbones import build
from finetune.model.cut import cut
from finetune.model.stages import feature_groups
from finetune.train.head_solver import Solved, solve_head

FOLDERS = {
    "textures": "defaults/dtd10",
    "flowers": "defaults/flowers",
    "signs": "defaults/signdigits",
    "clothes": "defaults/clothing",
    "vehicles": "vehicles",
    "bees": "hymenoptera_data",
}
SETS = (*FOLDERS, "tiny", "drawn", "digits")
MOST = {"vehicles": 100, "digits": 100}
"""Images a class that are taken, where there are more than a frozen network has time for."""

SHOTS = {"5": 5, "10": 10, "50": 50, "all": None}
SEEDS = range(3)

Answers = Callable[[np.ndarray], np.ndarray]


# --- the images, and what the frozen network makes of them -----------------------------------------------------------


def folder_of(name: str, data: Path, work: Path) -> Path:
    """Where a set lies; drawn, unpacked or written into the work folder if it is not there."""
    if name in FOLDERS:
        return data / FOLDERS[name]
    folder = work / "images" / name
    if not folder.is_dir():
        if name == "tiny":
            unpack_tiny(data / "tiny-imagenet-32.zip", folder)
        else:
            write_sample({"drawn": "vehicles"}.get(name, name), folder)
    return folder


def unpack_tiny(archive: Path, folder: Path) -> None:
    """Every fifth class of the hundred, 50 images each."""
    with zipfile.ZipFile(archive) as content:
        names = sorted(name for name in content.namelist() if "train/" in name and name.lower().endswith(".jpeg"))
        classes = sorted({name.split("/")[-2] for name in names})[::5]
        for wanted in classes:
            for name in [name for name in names if name.split("/")[-2] == wanted][:50]:
                target = folder / wanted / name.split("/")[-1]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read(name))


def features_of(name: str, backbone: str, data: Path, work: Path) -> dict[str, np.ndarray]:
    """Features, labels and split of every image of a set; computed once."""
    kept = work / "features" / f"{Path(backbone).stem}-{name}.npz"
    if kept.is_file():
        with np.load(kept) as found:
            return dict(found)
    images = ImageFolder(folder_of(name, data, work))
    network = build(backbone, images.classes, features="stages")
    learning = [f"{network.head}.weight", f"{network.head}.bias"]
    below = cut(network.module, learning, example=network.preprocess.example()).prefix
    columns: dict[str, list[np.ndarray]] = {"x": [], "y": [], "split": []}
    for part_name, part in images.split().parts():
        labels = part.labels
        rows = np.sort(
            np.concatenate([np.flatnonzero(labels == k)[: MOST.get(name)] for k in range(len(images.classes))])
        )
        batches = [rows[start : start + 32] for start in range(0, len(rows), 32)]
        for index, pixels in load_images(part, network.preprocess).batches(batches):
            with torch.no_grad():
                columns["x"].append(below(network.preprocess.normalise(pixels))[0].numpy())
            columns["y"].append(labels[index])
            columns["split"].append(np.full(len(index), part_name))
    found = {key: np.concatenate(values) for key, values in columns.items()}
    found |= {"classes": np.array(images.classes), "widths": np.array(list(feature_groups(network).values()))}
    kept.parent.mkdir(parents=True, exist_ok=True)
    np.savez(kept, **found)
    return found


def dealt(found: dict[str, np.ndarray], seed: int, shots: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from and rows to test on; the set's own test or val part first, then a fifth of each class."""
    labels, rng = found["y"], np.random.default_rng(seed)
    own = {"test", "val"} & set(found["split"].tolist())
    if seed == 0 and own:
        test = found["split"] == ("test" if "test" in own else "val")
    else:
        test = np.zeros(len(labels), dtype=bool)
        for label in range(len(found["classes"])):
            rows = rng.permutation(np.flatnonzero(labels == label))
            test[rows[: max(1, round(len(rows) / 5))]] = True
    learning = np.flatnonzero(~test)
    if shots is not None:
        learning = np.concatenate(
            [rng.permutation(learning[labels[learning] == k])[:shots] for k in range(len(found["classes"]))]
        )
    return learning, np.flatnonzero(test)


# --- what is compared ------------------------------------------------------------------------------------------------


def logits_of(head: Solved, x: np.ndarray) -> np.ndarray:
    return x[:, -head.features :] @ head.weight.numpy().T + head.bias.numpy()


def solved(x: np.ndarray, y: np.ndarray, widths: tuple[int, ...], classes: int, offers: tuple[int, ...]) -> Answers:
    """The head of `finetune run FOLDER`, or one without a part of it; probabilities for new rows."""
    head = solve_head(x, y, np.arange(len(y)), widths, classes=classes, offers=offers)
    temperature = fit_temperature(head.logits, y)
    return lambda new: probabilities(logits_of(head, new), "cross_entropy", temperature)


def five_lines(x: np.ndarray, y: np.ndarray) -> Answers:
    """What a notebook has: scikit-learn on the network's last output."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, y)
    return lambda new: np.asarray(model.predict_proba(new))


def without_refit(x: np.ndarray, y: np.ndarray, widths: tuple[int, ...], classes: int) -> Answers:
    """The same head from three quarters of the images, as if the rest were kept for validation."""
    keep = np.ones(len(y), dtype=bool)
    for label in range(classes):
        rows = np.flatnonzero(y == label)
        keep[rows[: len(rows) // 4]] = False
    return solved(x[keep], y[keep], widths, classes, (1, len(widths)))


def arms(x: np.ndarray, y: np.ndarray, widths: tuple[int, ...], classes: int) -> dict[str, Callable[[], Answers]]:
    """Name → what learns from the rows."""
    last = slice(x.shape[1] - widths[-1], None)
    return {
        "default": lambda: solved(x, y, widths, classes, (1, len(widths))),
        "stages always": lambda: solved(x, y, widths, classes, (len(widths),)),
        "last output only": lambda: solved(x, y, widths, classes, (1,)),
        "without refit": lambda: without_refit(x, y, widths, classes),
        "five lines of scikit-learn": lambda: (lambda found: lambda new: found(new[:, last]))(
            five_lines(x[:, last], y)
        ),
    }


def evaluated(answers: np.ndarray, y: np.ndarray) -> dict[str, float]:
    right = np.maximum(answers[np.arange(len(y)), y], 1e-300)
    return {
        "macro_f1": float(f1_score(y, answers.argmax(axis=1), average="macro")),
        "loss": float(-np.log(right).mean()),
        "ece": float(calibration_error(y, answers) or 0.0),
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
        if not cells:
            continue
        amount = f"{shots} images a class" if shots != "all" else "all images"
        text.append(f"\n## {amount}\n\n| | mean | {' | '.join(sets)} | worst | log-loss | ECE | seconds |")
        text.append("| --- |" + " --- |" * (len(sets) + 5))
        for arm in cells[0]["arms"]:
            own = {name: [line["arms"][arm] for line in cells if line["set"] == name] for name in sets}
            means = {
                key: {name: float(np.mean([one[key] for one in rows])) for name, rows in own.items() if rows}
                for key in ("macro_f1", "loss", "ece", "seconds")
            }
            scores = means["macro_f1"]
            row = [
                f"{np.mean(list(scores.values())):.3f}",
                *(f"{scores[name]:.3f}" if name in scores else "" for name in sets),
            ]
            row.append(f"{min(scores.values()):.3f}")
            row += [
                f"{np.mean(list(means[key].values())):.{digits}f}"
                for key, digits in (("loss", 3), ("ece", 3), ("seconds", 1))
            ]
            text.append(f"| {arm} | {' | '.join(row)} |")
    return "\n".join(text) + "\n"


HEAD = """# What a folder gives without any option

`finetune run FOLDER` keeps the best network at hand frozen ({backbone}) and solves a head on what it makes of the
images. How good that is, and what its parts add: macro F1 on images kept apart, mean of the splits of each of {sets}
sets, with the worst set, the log-loss, the calibration error (15 bins; on some hundred images a perfect one would have
0.05 to 0.06) and the processor seconds of the head alone. Written by `benchmarks/defaults.py`, {date}.

*default* chooses by cross-validation between the last output and that with the last three stages, learns from all
images but those of the test, and takes its sharpness from answers out of fold. The others leave a part out."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/defaults"), help="features and results [runs/defaults]")
    parser.add_argument("--backbone", default="models/efficientnet-lite0")
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=SETS)
    parser.add_argument("--shots", nargs="*", default=list(SHOTS), choices=list(SHOTS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--table", type=Path, help="write the page here")
    asked = parser.parse_args()
    data = Path(os.environ.get("FINETUNE_DATA", "data"))
    missing = [
        str(data / FOLDERS[name]) for name in asked.sets if name in FOLDERS and not (data / FOLDERS[name]).is_dir()
    ]
    if missing:
        print(
            "\n".join(f"{path}: not there" for path in missing), "\nset FINETUNE_DATA, or name --sets", file=sys.stderr
        )
        return 1
    results = asked.work / f"{Path(asked.backbone).stem}.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []
    done = {(line["set"], line["shots"], line["seed"]) for line in lines}
    for name in asked.sets:
        found = features_of(name, asked.backbone, data, asked.work)
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

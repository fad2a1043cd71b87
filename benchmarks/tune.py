"""Does `--tune` pay after the solved head, and is there a rule that says so beforehand?

    FINETUNE_DATA=DIR python benchmarks/tune.py --work DIR --table FILE     # an hour on one quiet core

The sets of `nine_sets.py` at 10, 30 and all images a class. A fifth of them is validation; the solved head of all
of them and the network tuned on the rest are tested on images kept apart, whichever the gate keeps. What the frozen
blocks make of an image is computed once a set and kept in the work folder. Every finished cell is a line of a file
there, so that a stopped benchmark goes on where it was; --table writes the tables from the lines that are there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nine_sets import MOST, SETS, dealt, folder_of, require_sets
from sklearn.metrics import f1_score

from finetune import ImageFolder
from finetune.data.batches import load_images
from finetune.data.load import order
from finetune.device import Compute, choose, seed
from finetune.evaluate.metrics import epoch_metrics
from finetune.files import write_text
from finetune.model.backbones import build
from finetune.model.network import Network
from finetune.model.plan import FreezePlan, make_plan
from finetune.model.stages import StagesHead, feature_groups
from finetune.train.gate import decide
from finetune.train.head_solver import Solved, solve_head
from finetune.train.phase import PhaseLearner
from finetune.train.solve import put_head
from finetune.train.state import Settings, step_batches

SHOTS = {"10": 10, "30": 30, "all": None}
SEEDS = range(3)
UNFREEZE = {"head": 0, "last:2": 1}
BATCH = 32


@dataclass(frozen=True)
class Images:
    """What the frozen blocks make of the images of a set.

    Attributes:
        values: what crosses the freeze line of the tuned phase, float32 [N, ...] each.
        x: what enters the head before anything is tuned, float32 [N, features].
        y: int64 [N], the classes.
        split: [N], the set's own part.
        classes: their names.
    """

    values: list[torch.Tensor]
    x: np.ndarray
    y: np.ndarray
    split: np.ndarray
    classes: list[str]


def read(name: str, work: Path) -> Images:
    """The images of a set; computed once, with at most `MOST` a class of it."""
    kept = work / "values" / f"{name}.pt"
    if not kept.is_file():
        folder = ImageFolder(folder_of(name, work))
        network = build(asked.backbone, folder.classes, features="stages")
        compute, plan = choose(), plan_of(network)
        head, line = (learner_of(network, plan, place, Settings(optimizer="auto"), compute).cut for place in (0, 1))
        rows: list[dict[str, Any]] = []
        for part_name, part in folder.split().parts():
            labels = part.labels
            some = [np.flatnonzero(labels == k)[: MOST.get(name)] for k in range(len(folder.classes))]
            chosen = np.sort(np.concatenate(some))
            batches = [chosen[start : start + BATCH] for start in range(0, len(chosen), BATCH)]
            for index, pixels in load_images(part, network.preprocess).batches(batches):
                images = network.preprocess.normalise(pixels)
                with torch.no_grad(), compute.autocast():
                    values, x = list(line.prefix(images)), head.prefix(images)[0].float()
                rows.append({"values": values, "x": x, "y": labels[index], "split": [part_name] * len(index)})
        columns = list(zip(*(row["values"] for row in rows), strict=True))
        found = {
            "values": [torch.cat(column) for column in columns],
            "x": torch.cat([row["x"] for row in rows]),
            "y": torch.from_numpy(np.concatenate([row["y"] for row in rows])),
            "split": [split for row in rows for split in row["split"]],
            "classes": folder.classes,
        }
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save(found, kept)
    found = torch.load(kept)
    x, y = found["x"].numpy(), found["y"].numpy()
    return Images(found["values"], x, y, np.array(found["split"]), found["classes"])


def plan_of(network: Network) -> FreezePlan:
    """What `--tune` lets learn, and how fast."""
    rates = {"lr": asked.lr, "backbone_lr": asked.backbone_lr}
    return make_plan(network.groups, network.parameters, unfreeze=UNFREEZE, epochs=1 + asked.epochs, **rates)


def learner_of(network: Network, plan: FreezePlan, phase: int, settings: Settings, compute: Compute) -> PhaseLearner:
    """What trains the network in a phase of the plan."""
    example = network.preprocess.example()
    return PhaseLearner(compute.place(network.module), plan, plan.phases[phase], settings, compute, example)


def validation(y: np.ndarray) -> np.ndarray:
    """Places of a fifth of each class, at least one image."""
    return np.concatenate([np.flatnonzero(y == k)[: max(1, round(np.sum(y == k) / 5))] for k in np.unique(y)])


def tuned(network: Network, images: Images, rows: np.ndarray, number: int) -> PhaseLearner:
    """Train the last groups on these rows, as a run does in the phase after the solved head."""
    settings = Settings(batch_size=BATCH, optimizer="auto", keep_statistics=True, warmup_epochs=0.55, seed=number)
    plan = plan_of(network)
    learner = learner_of(network, plan, 1, settings, choose())
    for epoch in range(1, plan.epochs):
        steps = step_batches(order(number, epoch, len(rows)), BATCH, 1)
        learner.train_mode()
        for place, step in enumerate(steps):
            learner.rate(epoch, place, len(steps))
            seed(number * 1_000_003 + epoch * len(steps) + place, learner.compute.device)
            taken = [rows[batch] for batch in step]
            batches = [(tuple(v[b] for v in images.values), torch.from_numpy(images.y[b])) for b in taken]
            learner.step(batches, len(taken[0]), epoch * len(steps) + place)
    network.module.eval()
    return learner


def answers(learner: PhaseLearner, images: Images, rows: np.ndarray) -> np.ndarray:
    """Logits of the network as it is now, float32 [N, classes]."""
    parts = [rows[start : start + 256] for start in range(0, len(rows), 256)]
    with torch.no_grad():
        logits = [learner.eval_logits(tuple(v[some] for v in images.values)) for some in parts]
    return torch.cat(logits).numpy()


def logits_of(head: Solved, x: np.ndarray) -> np.ndarray:
    return x[:, -head.features :] @ head.weight.numpy().T + head.bias.numpy()


def cell(images: Images, number: int, shots: int | None) -> dict[str, Any]:
    """One split: the solved head, the tuned network, what the gate keeps of them, and what might have told before."""
    learning, test = dealt({"y": images.y, "split": images.split, "classes": images.classes}, number, shots)
    val = learning[validation(images.y[learning])]
    train = np.setdiff1d(learning, val)
    network = build(asked.backbone, images.classes, features="stages")
    widths, classes = tuple(feature_groups(network).values()), len(images.classes)

    def solved(rows: np.ndarray, *offers: int) -> Solved:
        return solve_head(images.x[rows], images.y[rows], rows, widths, classes=classes, offers=offers)

    start, both = time.perf_counter(), np.concatenate([train, val])
    last, stages = solved(both, 1), solved(both, len(widths))
    best = min(last, stages, key=lambda head: head.loss)
    solving = time.perf_counter() - start
    first = solved(train, 1, len(widths))
    layer = network.module.get_submodule(network.head)
    assert isinstance(layer, StagesHead)
    put_head(layer, first.weight, first.bias)
    start = time.perf_counter()
    learner = tuned(network, images, train, number)
    tuning = time.perf_counter() - start
    gate = decide(images.y[val], best.logits[len(train) :], answers(learner, images, val))
    out_of_fold = epoch_metrics(images.y[both], best.logits)
    return {
        "classes": classes,
        "images": len(both),
        "solved": score(images.y[test], logits_of(best, images.x[test])),
        "tuned": score(images.y[test], answers(learner, images, test)),
        "solved_from_training_only": score(images.y[test], logits_of(first, images.x[test])),
        "test_images": len(test),
        "gate": gate,
        "out_of_fold": {name.removeprefix("val_"): value for name, value in out_of_fold.items()},
        "last_loss": last.loss,
        "stages_loss": stages.loss,
        "solving_seconds": solving,
        "tuning_seconds": tuning,
    }


def score(y: np.ndarray, logits: np.ndarray) -> float:
    """Macro F1."""
    return float(f1_score(y, logits.argmax(axis=1), average="macro"))


# --- the table -------------------------------------------------------------------------------------------------------


def table(lines: list[Mapping[str, Any]]) -> str:
    """A row for each set and number of images a class, means over its splits."""
    text = ["| set | images a class | splits | solved | tuned | the gate kept tuned | kept | solving, s | tuning, s |"]
    text.append("| --- |" + " --- |" * 8)
    for name in SETS:
        for shots in SHOTS:
            own = [line for line in lines if (line["set"], line["shots"]) == (name, shots)]
            if own:
                means = [np.mean([line[key] for line in own]) for key in ("solved", "tuned")]
                kept = [line["gate"]["kept"] for line in own]
                chosen = np.mean([line[which] for line, which in zip(own, kept, strict=True)])
                seconds = [np.mean([line[key] for line in own]) for key in ("solving_seconds", "tuning_seconds")]
                cells = [name, shots, len(own), *(f"{value:.3f}" for value in means)]
                cells += [f"{kept.count('tuned')} of {len(own)}", f"{chosen:.3f}", *(f"{one:.1f}" for one in seconds)]
                text.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(text)


def rules(lines: list[Mapping[str, Any]]) -> str:
    """For each figure known beforehand, the threshold that errs least on these cells: the best case for a rule."""
    gains = np.array([line["tuned"] - line["solved"] for line in lines])
    known = {
        "accuracy out of fold": [line["out_of_fold"]["accuracy"] for line in lines],
        "images": [line["images"] for line in lines],
        "images a class": [line["images"] / line["classes"] for line in lines],
        "gain of the stages in log-loss": [line["last_loss"] - line["stages_loss"] for line in lines],
        "p of the gate (known afterwards)": [line["gate"]["p"] for line in lines],
        "gain on validation (known afterwards)": [line["gate"]["difference"]["macro_f1"] for line in lines],
    }
    text = ["| rule | right on | mean macro F1 |", "| --- | --- | --- |"]
    fixed = {"never tune": np.zeros(len(gains), bool), "always tune": np.ones(len(gains), bool)}
    fixed["the gate"] = np.array([line["gate"]["kept"] == "tuned" for line in lines])
    text += [_rule(name, says, gains, lines) for name, says in fixed.items()]
    for name, values in known.items():
        cuts = [(sign, at) for at in sorted(set(values)) for sign in (1, -1)]
        sign, at = max(cuts, key=lambda one: _right(one[0] * np.array(values) >= one[0] * one[1], gains))
        says = sign * np.array(values) >= sign * at
        text.append(_rule(f"{name} {'at least' if sign > 0 else 'at most'} {at:.3g}", says, gains, lines))
    return "\n".join(text)


def _right(says: np.ndarray, gains: np.ndarray) -> float:
    return float(np.mean(says == (gains > 0)))


def _rule(name: str, says: np.ndarray, gains: np.ndarray, lines: list[Mapping[str, Any]]) -> str:
    score = np.mean([line["solved"] for line in lines]) + np.mean(np.where(says, gains, 0))
    return f"| {name} | {round(_right(says, gains) * len(gains))} of {len(gains)} | {score:.4f} |"


def main() -> int:
    require_sets(asked.sets)
    results = asked.work / f"tune-{asked.lr:g}-{asked.backbone_lr:g}-{asked.epochs}.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []
    done = {(line["set"], line["shots"], line["seed"]) for line in lines}
    for number in asked.seeds:
        for name in asked.sets:
            for shots in asked.shots:
                if (name, shots, number) in done:
                    continue
                found = cell(read(name, asked.work), number, SHOTS[shots])
                lines.append({"set": name, "shots": shots, "seed": number, **found})
                with open(results, "a", encoding="utf-8") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
                told = [f"{found[key]:.3f}" for key in ("solved", "tuned")]
                print(name, shots, number, *told, found["gate"]["kept"], f"{found['tuning_seconds']:.0f} s", flush=True)
    text = f"{table(lines)}\n\n{rules(lines)}\n"
    if asked.table:
        write_text(asked.table, text)
    print(text)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/tune"), help="values and results [runs/tune]")
    parser.add_argument("--backbone", default="models/efficientnet-lite0")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--backbone-lr", type=float, default=3e-4)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=SETS)
    parser.add_argument("--shots", nargs="*", default=list(SHOTS), choices=list(SHOTS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--table", type=Path, help="write the tables here")
    return parser.parse_args()


if __name__ == "__main__":
    asked = arguments()
    sys.exit(main())

"""How fast is it, beside what people write by hand? Every run is a process of its own; arms take turns.

    python benchmarks/speed.py                      # all tasks, three rounds: about half an hour on 2 idle cores
    python benchmarks/speed.py T1 T4 --rounds 5     # some of them

It wants real images: hymenoptera_data, vehicles (class folders) and MNIST/raw below $FINETUNE_DATA, and beside that
folder weights/mobilenetv2_035.in1k.yaml. Seconds are from the first batch asked for until trained and evaluated; what
comes before (starting Python, reading and checking the images) is the rest of `whole`. All arms of a task have the
same images, network, epochs and batch, and nothing is cached from one run to the next unless the arm says so.

The hand-written loops are those of by_hand.py.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from by_hand import CARD, DATA, MOBILENET, Arm, features_once, in_memory, loader_predicts, require_data, tutorial

COMMAND = Path(sys.executable).with_name("finetune")


# --- this tool, by its command line ----------------------------------------------------------------------------------


def ran(folder: Path, *flags: str) -> float:
    """Seconds of a `finetune run`, from the first batch until it is trained and evaluated."""
    subprocess.run([COMMAND, "run", *flags, "--out", folder / "run"], check=True, stderr=subprocess.DEVNULL)
    timings = json.loads((folder / "run" / "run.json").read_text())["timings"]
    return float(timings["train"] + timings["judge"])


def options(**values: str) -> list[str]:
    return [part for key, value in values.items() for part in ("-o", f"{key.replace('__', '.')}={value}")]


RESNET = options(
    model__backbone="timm/resnet18",
    model__weights="none",
    model__weights_missing="allow",
    model__preprocess="{size: 224, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}",
)


def hymenoptera(*more: str) -> Arm:
    recipe = "recipes/hymenoptera.yaml"
    shared = options(data__folder=str(DATA / "hymenoptera_data"), model__backbone=str(CARD), train__batch_size="16")
    return lambda folder: ran(folder, recipe, *shared, *more)


def vehicles(*more: str) -> Arm:
    shared = options(
        data__folder=str(DATA / "vehicles"),
        data__split="{val: 0.2, test: 0}",
        model__unfreeze="{head: 0, layer4: 0}",
        train__optimizer="adamw",
    )
    return lambda folder: ran(folder, "recipes/vehicles-small.yaml", *RESNET, *shared, *more)


def mnist(folder: Path) -> float:
    data = options(data__folder=str(DATA), train__batch_size="64", train__epochs="5")
    return ran(folder, "recipes/mnist-mlp.yaml", *data, *options(train__optimizer="adam", train__weight_decay="0"))


def predicting(precision: str) -> Arm:
    def arm(folder: Path) -> float:
        from finetune.cli.process import keep_large_buffers, wait_briefly

        keep_large_buffers()
        wait_briefly()
        from finetune import Classifier
        from finetune.deliver.predict import find_images
        from finetune.deliver.predictor import Predictor
        from finetune.device import choose

        network = Classifier(str(CARD), [f"class {number}" for number in range(7)]).network
        files = find_images([DATA / "vehicles"])
        clock = time.perf_counter()
        count = sum(row.label is not None for row in Predictor(network, choose("cpu", precision)).stream(files))
        assert count == len(files)
        return time.perf_counter() - clock

    return arm


# --- who runs against whom --------------------------------------------------------------------------------------------

ONE_VIEW = options(data__augment="none")
ALL = options(model__unfreeze="{all: 0}")
OFF = options(train__cache="off")
TASKS: dict[str, dict[str, Arm]] = {
    "T1 hymenoptera, MobileNetV2-0.35, head, 25 epochs": {
        "tutorial": tutorial("hymenoptera_data", MOBILENET, 25, 4, ["classifier"]),
        "features once": features_once,
        "finetune": hymenoptera("--epochs", "25"),
        "finetune, one view": hymenoptera("--epochs", "25", *ONE_VIEW),
        "finetune, solved": hymenoptera("--epochs", "25", *ONE_VIEW, *options(train__optimizer="lbfgs")),
        "finetune, uncached": hymenoptera("--epochs", "25", *OFF),
    },
    "T2 the same, all of it, 10 epochs": {
        "tutorial": tutorial("hymenoptera_data", MOBILENET, 10, 16, [""]),
        "finetune": hymenoptera("--epochs", "10", *ALL),
    },
    "T2 the same with ResNet-18": {
        "tutorial": tutorial("hymenoptera_data", "resnet18", 10, 16, [""]),
        "finetune": hymenoptera("--epochs", "10", *RESNET, *ALL),
    },
    "T3 vehicles, ResNet-18, layer4 and head, 3 epochs": {
        "tutorial": tutorial("vehicles", "resnet18", 3, 32, ["layer4", "fc"]),
        "finetune": vehicles("--epochs", "3"),
        "finetune, one view": vehicles("--epochs", "3", *ONE_VIEW),
        "finetune, one view, 12 epochs": vehicles("--epochs", "12", *ONE_VIEW),
    },
    "T4 MNIST, 784-128-64-10, 5 epochs": {"in memory": in_memory, "finetune": mnist},
    "T5 predict 2,053 photographs": {
        "loader": loader_predicts,
        "finetune": predicting("fp32"),
        "finetune, bf16": predicting("bf16"),
    },
}


# --- taking turns ----------------------------------------------------------------------------------------------------


def one(task: str, arm: str) -> None:
    """Run an arm in this process; its seconds are the last line of stdout."""
    folder = Path(tempfile.mkdtemp(prefix="speed-"))
    os.environ["FINETUNE_CACHE"] = str(folder / "cache")
    try:
        seconds = TASKS[task][arm](folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tasks", nargs="*", help="T1 to T5; all, if none is named")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--csv", type=Path, help="write every run into this file as well")
    parser.add_argument("--one", nargs=2, metavar=("TASK", "ARM"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    require_data()
    if arguments.one:
        return one(*arguments.one)
    rows = []
    for task, arms in TASKS.items():
        if arguments.tasks and task[:2] not in arguments.tasks:
            continue
        found: dict[str, list[tuple[float, float]]] = {arm: [] for arm in arms}
        for _ in range(arguments.rounds):
            for arm in arms:
                clock = time.perf_counter()
                command = [sys.executable, __file__, "--one", task, arm]
                told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                found[arm].append((float(told.splitlines()[-1]), time.perf_counter() - clock))
                rows.append([task, arm, *found[arm][-1]])
                print(f"{task}: {arm}: {found[arm][-1][0]:.2f} s, whole {found[arm][-1][1]:.1f} s", file=sys.stderr)
        first = statistics.median(seconds for seconds, _ in next(iter(found.values())))
        print(f"\n{task}\n\n| arm | seconds | lowest to highest | whole | against the first |\n| --- | " + "--: | " * 4)
        for arm, runs in found.items():
            seconds, whole = ([run[place] for run in runs] for place in (0, 1))
            middle, spread = statistics.median(seconds), f"{min(seconds):.2f} to {max(seconds):.2f}"
            times = f"{first / middle:.1f}×"
            print(f"| {arm} | {middle:.2f} | {spread} | {statistics.median(whole):.1f} | {times} |", flush=True)
    if arguments.csv:
        with arguments.csv.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["task", "arm", "seconds", "whole"], *rows])


if __name__ == "__main__":
    main()

"""Other libraries at their defaults, on a folder that is split, from the same network: macro F1 on its test images.

    python -m venv ENV; ENV/bin/pip install fastai transformers accelerate timm scikit-learn
    python benchmarks/others.py --python ENV/bin/python FOLDER... [--seeds 0 1 2] [--peers finetune fastai trainer]

FOLDER has train/, val/ and test/ with class folders. `finetune` is `finetune run FOLDER` with no option, its cache
empty; `fastai` is `vision_learner(...).fine_tune(5)` as in its quick start; `trainer` is the Trainer of transformers'
image-classification example: everything learns, 5 epochs, batches of 8, its rate of 2e-5. Each is a fresh process; the
seconds are those of all of it. A line of JSON each.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ARCHITECTURE = "tf_efficientnet_lite0"
MEAN = STD = (0.5, 0.5, 0.5)
PEERS = ("finetune", "fastai", "trainer")


# --- in the environment of the other libraries -----------------------------------------------------------------------


def files(folder: Path, part: str, classes: list[str]) -> list[tuple[str, int]]:
    return [
        (str(path), label) for label, name in enumerate(classes) for path in sorted((folder / part / name).iterdir())
    ]


def fastai(folder: Path, classes: list[str], weights: Path, seed: int) -> list[int]:
    import pandas as pd
    import torch
    from fastai.vision.all import (
        ImageDataLoaders,
        Normalize,
        Resize,
        accuracy,
        aug_transforms,
        set_seed,
        vision_learner,
    )

    set_seed(seed)
    rows = [
        (path, classes[label], part == "val")
        for part in ("train", "val")
        for path, label in files(folder, part, classes)
    ]
    loaders = ImageDataLoaders.from_df(
        pd.DataFrame(rows, columns=["path", "label", "val"]),
        path="/",
        valid_col="val",
        item_tfms=Resize(224),
        batch_tfms=[*aug_transforms(), Normalize.from_stats(MEAN, STD)],
        num_workers=2,
    )
    learner = vision_learner(loaders, ARCHITECTURE, pretrained=False, metrics=accuracy, path=tempfile.gettempdir())
    learner.model[0].model.load_state_dict(torch.load(weights), strict=False)
    learner.freeze()
    with learner.no_bar():
        learner.fine_tune(5)
        scores, _ = learner.get_preds(dl=loaders.test_dl([path for path, _ in files(folder, "test", classes)]))
    return [classes.index(loaders.vocab[best]) for best in scores.argmax(1).tolist()]


def trainer(folder: Path, classes: list[str], weights: Path, seed: int) -> list[int]:
    import timm
    import torch
    import transformers
    from PIL import Image
    from torchvision import transforms

    usual = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    learning = transforms.Compose([transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *usual])
    testing = transforms.Compose([transforms.Resize(224), transforms.CenterCrop(224), *usual])

    class Images(torch.utils.data.Dataset):
        def __init__(self, items: list[tuple[str, int]], transform: Any) -> None:
            self.items, self.transform = items, transform

        def __len__(self) -> int:
            return len(self.items)

        def __getitem__(self, index: int) -> dict[str, Any]:
            path, label = self.items[index]
            with Image.open(path) as image:
                return {"pixel_values": self.transform(image.convert("RGB")), "labels": label}

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = timm.create_model(ARCHITECTURE, num_classes=len(classes))
            self.net.load_state_dict(torch.load(weights), strict=False)

        def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, Any]:
            logits = self.net(pixel_values)
            loss = None if labels is None else torch.nn.functional.cross_entropy(logits, labels)
            return {"loss": loss, "logits": logits}

    transformers.set_seed(seed)
    network = Network()
    given = transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        num_train_epochs=5,
        per_device_train_batch_size=8,
        learning_rate=2e-5,
        seed=seed,
        report_to=[],
        save_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    running = transformers.Trainer(
        model=network, args=given, train_dataset=Images(files(folder, "train", classes), learning)
    )
    running.train()
    return running.predict(Images(files(folder, "test", classes), testing)).predictions.argmax(1).tolist()


def answered(peer: str, folder: Path, weights: Path, seed: int) -> None:
    """Print the answers for the test images as JSON; the last line of this process."""
    random.seed(seed)
    classes = sorted(path.name for path in (folder / "train").iterdir())
    given = {"fastai": fastai, "trainer": trainer}[peer](folder, classes, weights, seed)
    print(json.dumps({"truth": [label for _, label in files(folder, "test", classes)], "answers": given}))


# --- in our own ------------------------------------------------------------------------------------------------------


def ours(folder: Path, seed: int, place: Path) -> float:
    command = [str(Path(sys.executable).with_name("finetune")), "run", str(folder), "--out", str(place / "run")]
    environment = {**os.environ, "FINETUNE_CACHE": str(place / "cache")}
    subprocess.run([*command, "--seed", str(seed)], check=True, capture_output=True, env=environment)
    return float(json.loads((place / "run" / "report" / "metrics.json").read_text())["macro_f1"])


def theirs(peer: str, folder: Path, seed: int, python: Path, weights: Path) -> float:
    from sklearn.metrics import f1_score

    command = [str(python), __file__, str(folder), "--inside", peer, "--weights", str(weights), "--seeds", str(seed)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return float(f1_score(found["truth"], found["answers"], average="macro"))


def write_weights(path: Path) -> None:
    """The network's weights without its classifier, as plain PyTorch writes them."""
    import torch

    from finetune.model.backbones import build

    state = build("models/efficientnet-lite0", ["a", "b"]).module.state_dict()
    torch.save({name: value for name, value in state.items() if not name.startswith("classifier")}, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--python", type=Path, help="of the environment that has the other libraries")
    parser.add_argument("--peers", nargs="+", default=PEERS, choices=PEERS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--inside", choices=PEERS[1:], help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        answered(asked.inside, asked.folders[0].absolute(), asked.weights, asked.seeds[0])
        return 0
    if asked.python is None and set(asked.peers) != {"finetune"}:
        parser.error("--python: the interpreter of an environment with fastai, transformers, accelerate and timm")
    with tempfile.TemporaryDirectory() as place:
        weights = Path(place) / "weights.pth"
        write_weights(weights)
        for folder in asked.folders:
            for seed in asked.seeds:
                for peer in asked.peers:
                    start = time.perf_counter()
                    with tempfile.TemporaryDirectory() as own:
                        if peer == "finetune":
                            score = ours(folder, seed, Path(own))
                        else:
                            score = theirs(peer, folder, seed, asked.python, weights)
                    seconds = time.perf_counter() - start
                    line = {"set": folder.name, "peer": peer, "seed": seed, "macro_f1": score, "seconds": seconds}
                    print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

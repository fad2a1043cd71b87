"""Nine sets of photographs and drawings, and what a frozen network makes of them: for benchmarks of heads.

Textures, flowers, hand signs, clothes, vehicles, and bees and ants lie in $FINETUNE_DATA (folders in `FOLDERS`), with
Tiny ImageNet's archive; the drawn vehicles and scikit-learn's digits are made. Features are computed once and kept in
the work folder.
"""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from finetune import ImageFolder
from finetune.data.batches import load_images
from finetune.data.samples.catalogue import write_sample
from finetune.device import Compute, choose
from finetune.model.backbones import build
from finetune.model.cut import cut
from finetune.model.network import Network
from finetune.model.stages import feature_groups
from finetune.speed.api import optimize_cut

DATA = Path(os.environ.get("FINETUNE_DATA", "data"))
ARCHIVE = "tiny-imagenet-32.zip"
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


def require_sets(names: Sequence[str]) -> None:
    """End with a line for each of these sets that is not there."""
    needed = {name: DATA / FOLDERS.get(name, ARCHIVE) for name in names if name in FOLDERS or name == "tiny"}
    missing = [str(path) for path in needed.values() if not path.exists()]
    if missing:
        print("\n".join(f"{path}: not there" for path in missing), file=sys.stderr)
        print("set FINETUNE_DATA, or name other --sets", file=sys.stderr)
        sys.exit(1)


def folder_of(name: str, work: Path) -> Path:
    """Where a set lies; drawn, unpacked or written into the work folder if it is not there."""
    if name in FOLDERS:
        return DATA / FOLDERS[name]
    folder = work / "images" / name
    if not folder.is_dir():
        part = folder.with_name(f"{name}.part")  # a stopped benchmark leaves no half of a set under its name
        shutil.rmtree(part, ignore_errors=True)
        if name == "tiny":
            unpack_tiny(DATA / ARCHIVE, part)
        else:
            write_sample({"drawn": "vehicles"}.get(name, name), part)
        part.rename(folder)
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


def features_of(name: str, backbone: str, work: Path) -> dict[str, np.ndarray]:
    """Features, labels and split of every image of a set; computed once."""
    kept = work / "features" / f"{Path(backbone).stem}-{name}.npz"
    if kept.is_file():
        with np.load(kept) as found:
            return dict(found)
    images = ImageFolder(folder_of(name, work))
    network, compute = build(backbone, images.classes, features="stages"), choose()
    below = prefix_of(network, compute)
    columns: dict[str, list[np.ndarray]] = {"x": [], "y": [], "split": []}
    for part_name, part in images.split().parts():
        labels = part.labels
        rows = np.sort(
            np.concatenate([np.flatnonzero(labels == k)[: MOST.get(name)] for k in range(len(images.classes))])
        )
        batches = [rows[start : start + 32] for start in range(0, len(rows), 32)]
        for index, pixels in load_images(part, network.preprocess).batches(batches):
            with torch.inference_mode(), compute.autocast():
                columns["x"].append(below(network.preprocess.normalise(pixels))[0].float().numpy())
            columns["y"].append(labels[index])
            columns["split"].append(np.full(len(index), part_name))
    found = {key: np.concatenate(values) for key, values in columns.items()}
    found |= {"classes": np.array(images.classes), "widths": np.array(list(feature_groups(network).values()))}
    kept.parent.mkdir(parents=True, exist_ok=True)
    np.savez(kept, **found)
    return found


def prefix_of(network: Network, compute: Compute) -> Callable[[torch.Tensor], tuple[torch.Tensor, ...]]:
    """All before the head, as fast as a run makes it."""
    example = network.preprocess.normalise(torch.zeros((2, *network.preprocess.size, 3), dtype=torch.uint8))
    module = compute.place(network.module).eval()
    found = cut(module, [f"{network.head}.weight", f"{network.head}.bias"], example=example)
    return optimize_cut(found, module, example, compute).prefix


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

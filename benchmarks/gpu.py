"""Does it work on a GPU, and how fast is it there? One command, at most seven minutes; prints a table, writes JSON.

    python benchmarks/gpu.py --out gpu.json           # on a machine with an NVIDIA GPU
    python benchmarks/gpu.py --dry-run --out dry.json  # the same program with tiny sizes on a CPU: figures mean nothing

Where only PyTorch, timm, scikit-learn and pandas are installed and nothing can be fetched, the rest comes along (19
wheels, 23 MB; made with the Python version that runs there):

    pip wheel --no-deps -w .wheels .
    pip download --no-deps -d .wheels -c constraints.txt click pydantic pydantic-core annotated-types \\
        typing-inspection PyYAML rich markdown-it-py mdurl pygments safetensors matplotlib contourpy cycler fonttools \\
        kiwisolver pyparsing jinja2 MarkupSafe
    pip install --no-index --no-deps --target site .wheels/*.whl        # there
    PYTHONPATH=site python benchmarks/gpu.py --out gpu.json

A check that fails says so in its row and the others go on; what would begin after the time is up is left out and named.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import nn

import finetune as ft
from finetune.device import choose
from finetune.evaluate.evaluation import forward_of
from finetune.model.freeze import freeze_hashes

Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    device: str
    small: str  # a network for what has to be right
    large: tuple[str, ...]  # networks for what has to be fast
    side: int
    batch: int
    images: int
    workers: int
    seconds: float


GPU = Sizes("cuda", "timm/resnet18", ("resnet50", "vit_small_patch16_224"), 224, 256, 2048, 16, 400.0)
DRY = Sizes("cpu", "timm/test_resnet", ("test_resnet", "test_vit"), 160, 4, 24, 2, 120.0)
MACS = {"resnet50": 4.1e9, "vit_small_patch16_224": 4.6e9}
"""Multiply-adds of a forward pass at 224 pixels, as timm's table of results has them."""


def photographs(root: Path, sizes: Sizes) -> Path:
    """Drawn JPEGs of 2 classes, about 300 by 240 pixels: blobs, so that they compress as photographs do."""
    rng = np.random.default_rng(0)
    seeds = rng.integers(0, 256, (sizes.images, 12, 15, 3), dtype=np.uint8)

    def write(number: int) -> None:
        name = "ab"[number % 2]
        picture = seeds[number].copy()
        picture[..., number % 2] //= 2
        (root / name).mkdir(parents=True, exist_ok=True)
        large = Image.fromarray(picture).resize((300, 240), Image.Resampling.BICUBIC)
        large.save(root / name / f"{number:05d}.jpg", quality=90)

    with ThreadPoolExecutor(sizes.workers) as pool:
        list(pool.map(write, range(sizes.images)))
    return root


def classifier(sizes: Sizes, backbone: str, unfreeze: dict[str, int], precision: str) -> ft.Classifier:
    return ft.Classifier(
        backbone,
        ["a", "b"],
        weights="none",
        weights_missing="allow",  # frozen random layers are no use, and as good to check
        unfreeze=unfreeze,
        preprocess={"size": sizes.side, "mean": [0.5] * 3, "std": [0.5] * 3},
        device=sizes.device,
        precision=precision,
    )


# --- what has to be right --------------------------------------------------------------------------------------------


def learns(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Frozen, partial and full training in every precision: finite, and what is frozen keeps its bits."""
    data = ft.ImageFolder(folder).split(val=0.25, test=0.0)
    for name, unfreeze in {"head": {"head": 0}, "partial": {"head": 0, "last:1": 0}, "all": {"all": 0}}.items():
        for precision in ("fp32", "bf16", "fp16") if sizes.device == "cuda" else ("fp32", "bf16"):
            clf = classifier(sizes, sizes.small, unfreeze, precision)
            frozen = clf.plan(2).frozen_tensors()
            before = freeze_hashes(clf.network.module.state_dict(), frozen)
            clf.fit(data, epochs=2, batch_size=min(32, sizes.batch), lr=1e-3, optimizer="adamw")
            same = before == freeze_hashes(clf.network.module.state_dict(), frozen)
            losses = [row["train_loss"] for row in clf.history_]
            ok = bool(same and np.isfinite(losses).all())
            yield {"check": f"train {name} {precision}", "ok": ok, "losses": losses, "frozen_groups": len(before)}


def agrees(sizes: Sizes, _: Path) -> Iterator[Row]:
    """Logits in fp32 against those of the CPU."""
    clf = classifier(sizes, sizes.small, {"all": 0}, "fp32")
    pixels = torch.randint(0, 256, (16, sizes.side, sizes.side, 3), dtype=torch.uint8)
    with torch.inference_mode():
        cpu, there = (forward_of(clf.network, choose(d, "fp32"))(pixels).cpu() for d in ("cpu", sizes.device))
    difference = float((cpu - there).abs().max() / cpu.abs().max())
    yield {"check": "logits against the CPU, fp32", "ok": difference < 1e-3, "difference": difference}


def resumes(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """A run killed after its first checkpoint and resumed ends where the uninterrupted one does."""
    with tempfile.TemporaryDirectory() as place:
        hashes, weights = [], []
        for name, kill in (("whole", False), ("again", False), ("killed", True)):
            out = Path(place) / name
            command = [sys.executable, "-m", "finetune", "run", str(_recipe(sizes, folder, Path(place)))]
            process = subprocess.Popen(
                [*command, "--out", str(out)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
            while kill and process.poll() is None and not list(out.glob("checkpoints/epoch-*.json")):
                time.sleep(0.02)
            if kill:
                process.send_signal(signal.SIGKILL)
            process.wait(180)
            if kill:
                subprocess.run([*command[:3], "resume", str(out)], check=True, capture_output=True, timeout=180)
            hashes.append(json.loads((out / "run.json").read_text())["weights_sha256"])
            state = ft.load(out).network.module.state_dict()
            weights.append(torch.cat([value.flatten().double() for value in state.values()]))
    shift = [float((w - weights[0]).norm() / weights[0].norm()) for w in weights[1:]]
    yield {
        "check": "kill and resume",
        "ok": hashes[2] == hashes[0] or shift[1] <= 10 * max(shift[0], 1e-6),
        "same_bits": hashes[2] == hashes[0],
        "two_runs_same_bits": hashes[1] == hashes[0],
        "difference": shift[1],
        "difference_of_two_runs": shift[0],
    }


def _recipe(sizes: Sizes, folder: Path, place: Path) -> Path:
    recipe = {
        "data": {"folder": str(folder), "split": {"val": 0.25, "test": 0.0}},
        "model": {
            "backbone": sizes.small,
            "weights": "none",
            "preprocess": {"size": sizes.side},
            "unfreeze": {"all": 0},
        },
        "train": {"epochs": 2, "batch_size": min(32, sizes.batch), "device": sizes.device, "cache": "off"},
    }
    recipe["train"]["checkpoint"] = {"every_steps": 2}  # type: ignore[index]  # a mapping of mappings
    path = place / "gpu-recipe.yaml"
    path.write_text(json.dumps(recipe))  # JSON is YAML
    return path


def out_of_memory(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """A batch that the GPU cannot hold ends with the exit code for resources and a line that says what to do."""
    if sizes.device != "cuda":
        yield {"check": "out of memory", "ok": None, "left_out": "needs a GPU"}
        return
    taken = torch.empty(int(torch.cuda.mem_get_info()[0] * 0.97), dtype=torch.uint8, device="cuda")
    try:
        with tempfile.TemporaryDirectory() as place:
            command = [sys.executable, "-m", "finetune", "run", str(_recipe(sizes, folder, Path(place)))]
            more = ["--out", str(Path(place) / "run"), "-o", "train.batch_size=1024"]
            done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=120, check=False)
    finally:
        del taken
        torch.cuda.empty_cache()
    yield {"check": "out of memory", "ok": done.returncode == 6, "code": done.returncode, "said": done.stderr[-300:]}


# --- what has to be fast ---------------------------------------------------------------------------------------------


def waits(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """How often a training step makes the CPU wait for the GPU."""
    data = ft.ImageFolder(folder).split(val=0.25, test=0.0)
    clf = classifier(sizes, sizes.small, {"all": 0}, "bf16")
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if sizes.device == "cuda" else []
    with torch.profiler.profile(activities=kinds) as profile:
        clf.fit(data, epochs=1, batch_size=sizes.batch, augment="none")
    names = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "aten::_local_scalar_dense")
    counts = {event.key: event.count for event in profile.key_averages() if event.key in names}
    steps = -(-len(data.train) // sizes.batch)
    waited = counts.get("cudaStreamSynchronize", 0) + counts.get("cudaDeviceSynchronize", 0)
    yield {"check": "waits of a step", "ok": waited <= 4 * steps + 50, "steps": steps, "counts": counts}


def rate(sizes: Sizes, *_: object) -> float:
    """Operations a second of a product of large bf16 matrices."""
    n, times = (8192, 20) if sizes.device == "cuda" else (256, 2)
    one = torch.randn(n, n, device=sizes.device, dtype=torch.bfloat16)
    one @ one
    _wait(sizes)
    began = time.perf_counter()
    for _ in range(times):
        one @ one
    _wait(sizes)
    return 2 * n**3 * times / (time.perf_counter() - began)


def speed(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Full training, bf16: from JPEG files and from pixels that are kept, beside a plain well-written loop."""
    fastest = rate(sizes)
    files = sorted(folder.rglob("*.jpg"))
    labels = torch.tensor([path.parent.name == "b" for path in files], dtype=torch.long)
    for name in sizes.large:
        for kept in (False, True):
            ours, loop = _ours(sizes, folder, name, kept), _loop(sizes, files, labels, name, kept)
            done = ours * 6 * MACS.get(name, 0.0)  # a step is three times a forward pass, a multiply-add two operations
            yield {
                "check": f"{name}, {'kept pixels' if kept else 'JPEG files'}",
                "ok": ours >= loop if sizes.device == "cuda" else None,
                "images_per_second": ours,
                "loop_images_per_second": loop,
                "ratio": ours / loop,
                "share_of_bf16_rate": done / fastest,
            }


def _ours(sizes: Sizes, folder: Path, name: str, kept: bool) -> float:
    data = ft.ImageFolder(folder).split(val=0.05, test=0.0)
    clf = classifier(sizes, f"timm/{name}", {"all": 0}, "bf16")
    settings = {
        "batch_size": sizes.batch,
        "optimizer": "adamw",
        "batchnorm": "update",
        "cache": "auto" if kept else "off",
    }
    clf.fit(data, epochs=3, augment="none" if kept else "light", **settings)
    return float(max(row["images_per_second"] for row in clf.history_[1:]))


class Files(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """JPEG files, decoded, cut out at random and mirrored, as training loops do it."""

    def __init__(self, files: list[Path], labels: torch.Tensor, side: int) -> None:
        self.files, self.labels, self.side = files, labels, side

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = Image.open(self.files[index]).convert("RGB")
        left, top = np.random.randint(0, 40, 2)
        image = image.resize((self.side, self.side), Image.Resampling.BILINEAR, box=(left, top, left + 240, top + 200))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1), int(self.labels[index])


def _loop(sizes: Sizes, files: list[Path], labels: torch.Tensor, name: str, kept: bool) -> float:
    """channels_last, bf16 autocast, fused AdamW, workers, pinned memory; the better of two epochs after the first."""
    model = (
        timm.create_model(name, num_classes=2, img_size=sizes.side)
        if "vit" in name
        else timm.create_model(name, num_classes=2)
    )
    model = model.to(sizes.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    source = Files(files, labels, sizes.side)
    cuda = sizes.device == "cuda"
    loader = torch.utils.data.DataLoader(
        source,
        sizes.batch,
        shuffle=True,
        num_workers=sizes.workers,
        pin_memory=cuda,
        persistent_workers=True,
        drop_last=True,
    )
    pixels = torch.stack([source[number][0] for number in range(len(files))]).to(sizes.device) if kept else None
    speeds = []
    for _ in range(3):
        _wait(sizes)
        began, seen = time.perf_counter(), 0
        for images, target in _resident(pixels, labels.to(sizes.device), sizes.batch) if kept else loader:
            images, target = images.to(sizes.device, non_blocking=True), target.to(sizes.device, non_blocking=True)
            images = images.contiguous(memory_format=torch.channels_last).float().div_(127.5).sub_(1)
            with torch.autocast(sizes.device, torch.bfloat16):
                loss = nn.functional.cross_entropy(model(images), target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            seen += len(target)
        _wait(sizes)
        speeds.append(seen / (time.perf_counter() - began))
    return max(speeds[1:])


def _resident(
    pixels: torch.Tensor | None, labels: torch.Tensor, batch: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    assert pixels is not None
    for part in torch.randperm(len(pixels), device=pixels.device).split(batch):
        yield pixels[part], labels[part]


def _wait(sizes: Sizes) -> None:
    if sizes.device == "cuda":
        torch.cuda.synchronize()


# --- the program -----------------------------------------------------------------------------------------------------


CHECKS: dict[str, Callable[[Sizes, Path], Iterator[Row]]] = {
    "agrees": agrees, "learns": learns, "resumes": resumes, "memory": out_of_memory, "waits": waits, "speed": speed,
}  # fmt: skip


def main() -> int:
    """All checks; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", choices=[[], *CHECKS], help="which; all if none is named")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    arguments = parser.parse_args()
    sizes = DRY if arguments.dry_run else GPU
    if sizes.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA GPU found; --dry-run tries the program on the CPU", file=sys.stderr)
        return 6
    began, rows = time.monotonic(), list[Row]()
    with tempfile.TemporaryDirectory() as place:
        os.environ["FINETUNE_CACHE"] = str(Path(place) / "cache")
        folder = photographs(Path(place) / "images", sizes)
        for name in arguments.checks or CHECKS:
            if time.monotonic() - began > sizes.seconds:
                rows.append({"check": name, "ok": None, "left_out": "the time is up"})
                continue
            try:
                for row in CHECKS[name](sizes, folder):
                    rows.append(row)
                    tell(row)
            except Exception as error:  # one check that breaks must not hide the others
                traceback.print_exc()
                rows.append({"check": name, "ok": False, "error": f"{type(error).__name__}: {error}"})
            done = {"device": _about(sizes), "torch": torch.__version__, "dry_run": arguments.dry_run, "rows": rows}
            arguments.out.write_text(json.dumps(done, indent=1))
    print(f"{time.monotonic() - began:.0f} s; {sum(row['ok'] is False for row in rows)} failed; {arguments.out}")
    return int(any(row["ok"] is False for row in rows))


def tell(row: Row) -> None:
    """A line of the table."""
    rest = ", ".join(
        f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items() if k not in ("check", "ok")
    )
    print(f"| {row['check']} | {({True: 'pass', False: 'FAIL', None: '-'})[row['ok']]} | {rest} |", flush=True)


def _about(sizes: Sizes) -> str:
    return torch.cuda.get_device_name() if sizes.device == "cuda" else "CPU"


if __name__ == "__main__":
    sys.exit(main())

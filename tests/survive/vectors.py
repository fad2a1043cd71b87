"""`embed` killed at random, again and again, and gone on with: V01."""

from __future__ import annotations

import os
import random
import signal
import time
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np

from finetune.deliver.vectors.store import VectorStore
from tests import makers
from tests.survive.tools import Job, Process

DATA = "FINETUNE_DATA"


def killed_embedding(
    folder: Path, database: str, *, images: int = 2000, kills: int = 10, backbone: str = "models/small-resnet"
) -> str:
    """V01: SIGKILL at seeded times while a folder is embedded; the same command goes on each time, to the same rows.

    The photographs are those of `vehicles` below the folder that FINETUNE_DATA names.
    """
    photographs = Path(os.environ.get(DATA, "")) / "vehicles"
    if not os.environ.get(DATA) or not photographs.is_dir():
        return f"not run: {DATA} names no folder with `vehicles` in it"
    job = Job(folder, folder.with_name(f"{folder.name}-cache"))
    copy_some(photographs, folder / "images", images)
    before = makers.tree_hash(folder / "images")
    command = ("embed", backbone, "images", "--database", database, "--to")
    began = time.monotonic()
    assert job.do(*command, "whole", timeout=1200).rc == 0, job.said()
    length = time.monotonic() - began
    left = kill_at_random(job, command, kills, length)
    assert job.do(*command, "store", timeout=1200).rc == 0, job.said()
    assert makers.tree_hash(folder / "images") == before
    furthest = require_same_rows(folder / "store", folder / "whole", images)
    kept = ", ".join(map(str, left))
    return f"{kills} kills landed ({length:.0f} s undisturbed; rows kept: {kept}), the same {images:,} rows, {furthest}"


def copy_some(photographs: Path, to: Path, images: int) -> None:
    """So many of the photographs in class folders, the classes taking turns."""
    classes = [sorted(path.glob("*.jpg")) for path in sorted(photographs.iterdir()) if path.is_dir()]
    taken = [path for path in chain.from_iterable(zip_longest(*classes)) if path is not None][:images]
    assert len(taken) == images, f"{photographs} has only {len(taken)} photographs"
    for path in taken:
        (to / path.parent.name).mkdir(parents=True, exist_ok=True)
        (to / path.parent.name / path.name).write_bytes(path.read_bytes())


def kill_at_random(job: Job, command: tuple[str, ...], kills: int, length: float) -> list[int]:
    """Kill the command so many times, each time after it has begun to write; rows that each kill left."""
    rng, left = random.Random(0), list[int]()
    while len(left) < kills:
        process = job.start(*command, "store")
        while process.poll() is None and not holds(process, job.folder / "store" / ".lock"):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 1.5 * length / kills))
        process.send_signal(signal.SIGKILL)
        if job.end(process).rc == 137:
            left.append(len(VectorStore(job.folder / "store")))
        else:  # it came to its end before: all over again
            job.fresh("store")
    return left


def holds(process: Process, path: Path) -> bool:
    """Whether the process has this file open."""
    try:
        return any(os.readlink(entry) == str(path) for entry in os.scandir(f"/proc/{process.pid}/fd"))
    except OSError:  # it has just ended, or closed one
        return False


def require_same_rows(store: Path, whole: Path, images: int) -> str:
    """Each image once, with the hash, the class and, to rounding, the vector of the undisturbed store."""
    mine, theirs = rows_of(store), rows_of(whole)
    assert len(theirs) == images
    assert mine.keys() == theirs.keys(), f"{len(mine.keys() ^ theirs.keys())} paths differ"
    furthest = 0.0
    for path, (about, vector) in theirs.items():
        assert mine[path][0] == about, path
        furthest = max(furthest, float(np.abs(mine[path][1] - vector).max() / np.abs(vector).max()))
    assert furthest < 1e-4, f"vectors differ by {furthest:.1e}"
    return f"vectors differ by at most {furthest:.0e} of their largest number"


def rows_of(path: Path) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Path → (sha256, class, prediction) and vector, of a store that has come to its end."""
    store = VectorStore(path)
    assert store.complete, f"{path} says that it is incomplete"
    rows = [row for batch in store.vectors() for row in batch.to_pylist()]
    assert len({row["path"] for row in rows}) == len(rows), "a path twice"
    return {row["path"]: ((row["sha256"], row["class"], row["prediction"]), np.array(row["vector"])) for row in rows}

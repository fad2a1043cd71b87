"""Functions run by several ranks at once: processes of a server that has imported everything already."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.makers import class_folders

CONTEXT = multiprocessing.get_context("forkserver")
IMPORTED = ("classifier.training", "distributed.join", "model.backbones", "model.from_timm", "train.trainer")
MORE = ("train.decide", "speed.optimized", "speed.adam", "data.folder", "data.batches")
CONTEXT.set_forkserver_preload([f"finetune.{name}" for name in (*IMPORTED, *MORE)])


def on_ranks(
    world: int, work: Callable[[], Any], waiting_for: Sequence[int] | None = None, **environment: str
) -> list[Any]:
    """What `work` gives on each of so many ranks, in order; an error is given as its text.

    Args:
        world: how many ranks.
        work: what each does.
        waiting_for: the ranks that answer; all by default. The others are given as None, and ended.
        **environment: of each.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = CONTEXT.Queue()
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
    }
    common |= environment
    processes = [
        CONTEXT.Process(target=_one, args=(queue, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, work))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    found: dict[int, Any] = {}
    try:
        while not found.keys() >= set(range(world) if waiting_for is None else waiting_for):
            rank, value = queue.get(timeout=100)
            found[rank] = value
    finally:
        for process in processes:
            process.kill()
            process.join(10)
    return [found.get(rank) for rank in range(world)]


def _one(queue: Any, environment: dict[str, str], work: Callable[[], Any]) -> None:
    os.environ.update(environment)
    import torch

    torch.set_num_threads(1)
    from finetune.distributed.join import join

    try:
        join("cpu")
        value = work()
    except Exception as error:  # told to the test, which expects it or not
        value = f"{type(error).__name__}: {error}"
    queue.put((int(environment["RANK"]), value))


# --- what the ranks do -----------------------------------------------------------------------------------------------


def images(root: Path) -> Path:
    """29 to learn from and 13 to evaluate on, both prime."""
    class_folders(root / "train", {"a": 14, "b": 15})
    class_folders(root / "val", {"a": 6, "b": 7}, seed=100)
    return root


def tiny_classifier(classes: list[str], **options: Any) -> Any:
    """An untrained network of 32x32 pixels, in full precision."""
    import finetune as ft

    fixed = {"weights": "none", "weights_missing": "allow", "preprocess": {"size": 32}}
    return ft.Classifier("timm/test_resnet", classes, device="cpu", precision="fp32", **fixed, **options)


def train(root: Path, unfreeze: dict[str, int], folder: Path | None = None, stop_at: int = 0, **settings: Any) -> Any:
    """Train a tiny network; weights, history, and at which step it was stopped.

    Args:
        root: class folders, split.
        unfreeze: what learns.
        folder: of the checkpoints; where one is there, the training goes on from it.
        stop_at: rank 1 is told to stop after so many steps.
        **settings: of a recipe's `train`.
    """
    import torch

    import finetune as ft
    from finetune.distributed.ranks import this_rank
    from finetune.errors import Stopped
    from finetune.recipe.section import train_config
    from finetune.runs.checkpoints import Checkpoints

    data = ft.ImageFolder(root).split()
    clf = tiny_classifier(data.classes, unfreeze=unfreeze)
    steps: list[int] = []
    config = train_config(batch_size=8, batchnorm="keep", **{"lr": 0.05, "weight_decay": 0.01, **settings})
    checkpoints = Checkpoints(folder) if folder is not None and this_rank().main else None
    trainer = clf.trainer(
        data,
        config,
        augment="none",
        workers=0,
        checkpoints=checkpoints,
        tick=lambda *_: steps.append(1),
        stop=lambda: signal.SIGTERM if stop_at and this_rank().rank == 1 and len(steps) + 1 >= stop_at else None,
    )
    state = this_rank().broadcast(checkpoints.latest(lambda text: None) if checkpoints is not None else None)
    if state is not None:
        trainer.restore(state)
    stopped = None
    try:
        list(trainer)
    except Stopped:
        stopped = trainer.position.step
    weights = torch.cat([value.flatten().double() for value in clf.network.module.state_dict().values()]).numpy()
    return weights, trainer.position.history, stopped, trainer.position.step


def vanish(how: str) -> Any:
    """Rank 1 ends or hangs while the others wait for it."""
    import time

    from finetune.distributed.ranks import this_rank

    this_rank().agree(0.0, None)
    if this_rank().rank == 1:
        if how == "dies":
            os._exit(1)
        time.sleep(60)
    time.sleep(1.2)
    this_rank().agree(0.0, None)


def compare_facts(other: bool) -> None:
    """Rank 1 has something else than the others, or not."""
    from finetune.distributed.ranks import this_rank

    this_rank().require_same("mend it", recipe="r", images="other" if other and this_rank().rank == 1 else "i")


def answers(root: Path) -> Any:
    """Logits of the 13 validation images by all ranks together, or by this process where there is no other."""
    import finetune as ft
    from finetune.data.batches import load_images
    from finetune.distributed.ranks import this_rank
    from finetune.evaluate.evaluation import forward_of
    from finetune.train.across_ranks import logits_of

    data = ft.ImageFolder(root).split()
    clf = tiny_classifier(data.classes, seed=this_rank().rank)
    images = load_images(data.val, clf.network.preprocess)
    together = logits_of(clf.network, images, clf.compute)
    if together is not None:
        return together
    ((_, pixels),) = images.batches([np.arange(len(images))])
    return forward_of(clf.network, clf.compute)(pixels).detach().numpy()


def solved(root: Path) -> Any:
    """How often the head was solved, and the weights."""
    from finetune.train import across_ranks

    calls: list[int] = []
    solve = across_ranks.solve_phase
    across_ranks.solve_phase = lambda *a, **k: (calls.append(1), solve(*a, **k))[1]
    weights, history, _, _ = train(root, {"head": 0}, epochs=1, optimizer="lbfgs")
    return len(calls), weights, history


def close(found: np.ndarray, expected: np.ndarray, share: float) -> bool:
    """Whether the difference of two vectors of weights is below a share of their length."""
    return float(np.linalg.norm(found - expected)) <= share * float(np.linalg.norm(expected))

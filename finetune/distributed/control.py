"""The connection between ranks besides the gradients, and which rank is missing when one does not answer."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import distributed as dist

from finetune.errors import LostRank

BEAT = "finetune/beat"
GRACE = 3.0
"""Seconds: ranks that wait for the same one give up within moments of each other."""

ROLL_CALL = 1.0
"""Seconds for all ranks that gave up to say that they live, before it is asked which has been silent for longest."""


class Control:
    """The connection to the other ranks, set up when this process joined them.

    Attributes:
        group: for messages on the CPU.
        store: where each rank leaves when it was last alive.
        ranks: who this process is; None if it is alone.
        told: when this rank last told that it lives.
        parent: the launcher's process.
    """

    group: Any = None
    store: Any = None
    ranks: Any = None
    told: float = 0.0
    parent: int | None = None

    def is_orphan(self) -> bool:
        """Whether the process that started this one has ended."""
        return self.parent is not None and os.getppid() != self.parent


CONTROL = Control()


@contextlib.contextmanager
def waiting_for(rank: int, world: int, what: str) -> Iterator[None]:
    """Around everything in which rank `rank` of `world` waits for the others.

    Raises:
        LostRank: one of them does not answer, and which.
    """
    _beat(rank, what)
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError) or not _is_about_ranks(error):
            raise
        CONTROL.told = 0.0
        _beat(rank, what)  # else one that said so just before the missing one would be taken for it
        time.sleep(ROLL_CALL)
        missing = _missing(rank, world, what)
        if rank == 0:  # the store ends with this process: the others may still ask it who is missing
            time.sleep(GRACE)
        raise LostRank(
            f"rank {rank}: {missing} ({str(error).splitlines()[0][:160]})",
            "see what that rank said; go on from the last checkpoint with `finetune resume`",
        ) from error


def _beat(rank: int, what: str) -> None:
    """Tell the others that this rank lives, and what it waits for; at most once a second."""
    now = time.time()
    if CONTROL.store is not None and now - CONTROL.told > 1:
        CONTROL.told = now
        with contextlib.suppress(dist.DistError, RuntimeError):
            CONTROL.store.set(f"{BEAT}/{rank}", f"{now} {what}")


def _missing(own: int, world: int, what: str) -> str:
    """A sentence on the rank that has been silent for longest."""
    heard: dict[int, float] = {}
    with contextlib.suppress(dist.DistError, RuntimeError, ValueError):
        for rank in range(world):
            key = f"{BEAT}/{rank}"
            if rank != own and CONTROL.store is not None:
                heard[rank] = float(CONTROL.store.get(key).decode().split()[0]) if CONTROL.store.check([key]) else 0.0
    if len(heard) < world - 1:  # the one that is missing may be one that could not be asked for
        return f"another rank has ended, or does not answer ({what})"
    rank = min(heard, key=heard.__getitem__)
    when = f"last heard of {time.time() - heard[rank]:.0f} s ago" if heard[rank] else "never heard of"
    return f"rank {rank} has ended, or does not answer: it was {when} ({what})"


def _is_about_ranks(error: Exception) -> bool:
    signs = ("gloo", "nccl", "connection closed", "connection reset", "timed out", "socket")
    return isinstance(error, dist.DistError) or any(sign in str(error).lower() for sign in signs)

"""The ranks of a run, and everything that they send to each other.

The idea: every rank is the whole program. Each reads the images, builds the network and walks through the same steps of
the same order; of every batch it takes its own part, and DistributedDataParallel averages the gradients. So all ranks
hold the same weights and the same position all the time, rank 0 alone writes, and a checkpoint knows nothing of ranks.
What only one rank can know (a signal, what is kept in the cache, the solved head) all agree on at the same place: a
rank that decided by itself would leave the others waiting.

A single process is rank 0 of 1: nothing is sent, and its numbers are those of a program without ranks.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from finetune.distributed.control import CONTROL, waiting_for
from finetune.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Who this process is among those of the run.

    Attributes:
        rank: 0 publishes, tells people, and is asked.
        world: how many there are.
        local: rank among those of this machine.
        local_world: how many there are on this machine.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    local_world: int = 1

    @property
    def main(self) -> bool:
        """Whether this is rank 0, the one that writes."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there are no others."""
        return self.world == 1

    # --- what is whose -----------------------------------------------------------------------------------------------

    def parts(self, step: Sequence[np.ndarray], least: int = 1) -> tuple[list[np.ndarray], float]:
        """This rank's images of a step's batches, int64 [B] each, and how often each counts in the average over ranks.

        Where a batch is too small for every rank to get `least` images, all ranks work on the whole step.
        """
        if self.alone or min(len(batch) for batch in step) < self.world * least:
            return list(step), 1.0
        # the wrapper averages the gradients of ranks that saw a part each: times their number that is the sum
        return [np.array_split(batch, self.world)[self.rank] for batch in step], float(self.world)

    def shard(self, images: int) -> np.ndarray:
        """This rank's images of so many that are evaluated: a run of neighbours, int64 [B], perhaps empty."""
        return np.array_split(np.arange(images), self.world)[self.rank]

    def wrap(self, module: nn.Module, forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """`forward`, which runs parts of `module`; a backward pass through it averages the gradients of all ranks."""
        if self.alone:
            return forward
        device = next(module.parameters()).device
        with self.waiting_for("gradients"):
            return DistributedDataParallel(
                _Forward(module, forward),
                device_ids=[device.index or 0] if device.type == "cuda" else None,
                find_unused_parameters=True,  # those below the cut: without it, their gradients would be waited for
            )

    def decide_on_main(self, make: Callable[[Any], T], to_plain: Callable[[T], Any], resumed: Any) -> T:
        """Let rank 0 decide something that only it can know, such as what fits into memory; all get the same decision.

        Args:
            make: the decision, from what was decided before (None for nothing).
            to_plain: the decision in plain values, from which `make` gives the same decision on the other ranks.
            resumed: what was decided before the run was stopped, on rank 0.
        """
        if not self.main:
            return make(self.broadcast())
        decision = make(resumed)
        self.broadcast(to_plain(decision))
        return decision

    # --- what all must know ------------------------------------------------------------------------------------------

    def waiting_for(self, what: str) -> contextlib.AbstractContextManager[None]:
        """Around everything that waits for the others; raises `LostRank` where one does not answer."""
        return contextlib.nullcontext() if self.alone else waiting_for(self.rank, self.world, what)

    def agree(self, total: float, signum: int | None) -> tuple[float, int | None]:
        """The sum of all ranks' `total`, and the signal that any of them got (the largest of several)."""
        if self.alone:
            return total, signum
        if CONTROL.is_orphan():  # who would start it again, or end it, is gone
            signum = signum or signal.SIGTERM
        table = torch.zeros(self.world, 2, dtype=torch.float64)
        table[self.rank] = torch.tensor([total, signum or 0], dtype=torch.float64)
        with self.waiting_for("step"):
            dist.all_reduce(table, group=CONTROL.group)
        return float(table[:, 0].sum()), int(table[:, 1].max()) or None

    def gather(self, rows: np.ndarray, columns: int, images: int) -> np.ndarray:
        """All ranks' rows of `shard(images)`, in order: float32 [images, columns]."""
        if self.alone:
            return rows
        counts = [len(part) for part in np.array_split(np.arange(images), self.world)]
        own = torch.zeros(max(counts), columns)  # `all_gather` wants tensors of one size: the rest is cut off below
        if counts[self.rank]:
            own[: counts[self.rank]] = torch.from_numpy(rows)
        parts = [torch.empty_like(own) for _ in counts]
        with self.waiting_for("evaluation"):
            dist.all_gather(parts, own, group=CONTROL.group)
        return np.concatenate([part[:count].numpy() for part, count in zip(parts, counts, strict=True)])

    def broadcast(self, value: Any = None) -> Any:
        """Send a value of rank 0 to every rank: plain values and tensors, as a checkpoint holds them."""
        if self.alone:
            return value
        buffer = io.BytesIO()
        if self.main:
            torch.save(value, buffer)
        size = torch.tensor([len(buffer.getvalue())])
        with self.waiting_for("news of rank 0"):
            dist.broadcast(size, 0, group=CONTROL.group)  # first, as the others do not know how much will come
            data = torch.frombuffer(bytearray(buffer.getvalue() or bytes(int(size))), dtype=torch.uint8)
            dist.broadcast(data, 0, group=CONTROL.group)
        if self.main:
            return value
        return torch.load(io.BytesIO(data.numpy().tobytes()), weights_only=True)

    @torch.no_grad()
    def copy_from_main(self, tensors: Sequence[torch.Tensor]) -> None:
        """Overwrite tensors with those of rank 0."""
        if self.alone:
            return
        with self.waiting_for("weights of rank 0"):
            for tensor in tensors:
                value = tensor.detach().cpu().contiguous()
                dist.broadcast(value, 0, group=CONTROL.group)
                if not self.main:
                    tensor.copy_(value)

    @contextlib.contextmanager
    def local_main_first(self) -> Iterator[None]:
        """Inside, the first rank of each machine works while the others wait; they then find its files in the cache."""
        if self.alone:
            yield
            return
        if self.local:
            self.barrier()
        yield
        if not self.local:
            self.barrier()

    def require_same(self, remedy: str, **facts: str) -> None:
        """Refuse to go on where a rank was given something else than rank 0.

        Args:
            remedy: what to do then.
            **facts: name → what must be the same.

        Raises:
            UsageError: naming the ranks and what differs.
        """
        if self.alone:
            return
        # hashes, as all ranks must send the same number of bytes
        own = b"".join(hashlib.sha256(text.encode()).digest() for text in facts.values())
        tables = [torch.empty(len(own), dtype=torch.uint8) for _ in range(self.world)]
        with self.waiting_for("comparison"):
            dist.all_gather(tables, torch.frombuffer(bytearray(own), dtype=torch.uint8), group=CONTROL.group)
        digests = [table.numpy().tobytes() for table in tables]
        problems = [
            f"rank {rank}: its {name.replace('_', ' ')} is not that of rank 0"
            for rank, digest in enumerate(digests)
            for position, name in enumerate(facts)
            if digest[32 * position : 32 * (position + 1)] != digests[0][32 * position : 32 * (position + 1)]
        ]
        if problems:
            raise UsageError(problems, remedy)

    def barrier(self) -> None:
        """Wait until all ranks have come here."""
        with self.waiting_for("the others"):
            dist.barrier(group=CONTROL.group)


class _Forward(nn.Module):
    """The module that DistributedDataParallel wraps: parts of a network, with all of its parameters and buffers."""

    def __init__(self, module: nn.Module, forward: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.module = module
        self._run = [forward]  # in a list, so that it is no submodule

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        """Logits of the values that cross the cut."""
        return self._run[0](*values)


def this_rank() -> Ranks:
    """The ranks that this process has joined; 0 of 1 if none."""
    ranks: Ranks = CONTROL.ranks or Ranks()
    return ranks

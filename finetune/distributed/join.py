"""Joins the process group of the ranks that a launcher has started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta

import torch
from torch import distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # torch exports it by a star
from torch.distributed.rendezvous import rendezvous

from finetune.distributed.control import CONTROL
from finetune.distributed.ranks import Ranks, this_rank
from finetune.errors import LostRank, ResourceError, UsageError

TIMEOUT = 600.0
"""Seconds that ranks wait for each other; FINETUNE_TIMEOUT in the environment says otherwise."""


def rank_from(environment: Mapping[str, str] = os.environ) -> Ranks:
    """The rank that a launcher (torchrun) has given this process; without one, 0 of 1.

    Raises:
        UsageError: numbers that are none.
    """
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return Ranks()
    try:
        rank, world, local = (int(environment.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        return Ranks(rank, world, local, int(environment.get("LOCAL_WORLD_SIZE", "1")))
    except ValueError as error:
        remedy = "let torchrun set them, or none"
        raise UsageError(f"RANK, WORLD_SIZE, LOCAL_RANK or LOCAL_WORLD_SIZE: {error}", remedy) from error


def join(device: str = "auto") -> Ranks:
    """Meet the other ranks that a launcher has started, if there are any; once a process.

    Args:
        device: that the recipe names.

    Raises:
        ResourceError: they cannot be reached, the port is taken, or there are fewer GPUs than ranks.
    """
    ranks = rank_from()
    if ranks.alone or dist.is_initialized():
        return this_rank()
    _take_gpu(ranks, device)
    timeout = timedelta(seconds=_timeout())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        store, rank, world = next(rendezvous("env://", timeout=timeout))
        # processes that were started again must not read where the ones before them could be reached
        store = PrefixStore(f"finetune/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)
        CONTROL.group = dist.new_group(backend="gloo", timeout=timeout)
    except (dist.DistError, RuntimeError, ValueError) as error:
        raise _cannot_meet(ranks, error) from error
    CONTROL.store, CONTROL.ranks, CONTROL.parent = store, ranks, os.getppid()
    return ranks


def _cannot_meet(ranks: Ranks, error: Exception) -> ResourceError:
    address = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
    reason = str(error).splitlines()[0]
    if "address already in use" in str(error).lower() or "EADDRINUSE" in str(error):
        remedy = "end what uses it, or give another: torchrun --master-port PORT"
        return ResourceError(f"rank {ranks.rank}: port {address} is taken ({reason})", remedy)
    remedy = f"see what the others said; look whether {address} can be reached from each machine"
    return LostRank(f"rank {ranks.rank}: cannot meet the others at {address}: {reason}", remedy)


def _take_gpu(ranks: Ranks, device: str) -> None:
    """Give each rank of a machine a GPU of its own, which is `cuda` from now on."""
    if device not in ("auto", "cuda") or not torch.cuda.is_available():
        return
    if ranks.local >= (count := torch.cuda.device_count()):
        raise ResourceError(
            f"train.device: rank {ranks.rank} is number {ranks.local + 1} on this machine, which has {count} GPUs",
            f"start {count} processes a machine, or use --device cpu",
        )
    torch.cuda.set_device(ranks.local)


def _timeout() -> float:
    text = os.environ.get("FINETUNE_TIMEOUT", str(TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise UsageError(f"FINETUNE_TIMEOUT: {text!r} is no number of seconds", "give one above 0")
    return seconds

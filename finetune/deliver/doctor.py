"""Checks of this machine: installed packages, devices, disk space."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from finetune.device import cores, free_memory
from finetune.errors import FinetuneError
from finetune.files import cache_folder, visible, write_atomic

Look = Callable[[], tuple[bool, str]]
"""Looks at one thing: whether it is fit, and what was seen."""

FLOORS = {"torch": (2, 10), "pillow": (12, 3), "timm": (1, 0, 26)}
"""Oldest versions that are safe to read foreign weights and images with, or that have what is used of them."""

HUB, HUB_SECONDS = "huggingface.co", 3.0
"""Where published weights come from, and how long to wait for an answer."""

LITTLE_DISK, LITTLE_MEMORY = 2 * 10**9, 10**9
"""Bytes below which a machine is not fit: a few checkpoints of a small network, and the libraries themselves."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: what was looked at, whether it is fit, and what was seen."""

    name: str
    fit: bool
    told: str


def examine() -> Iterator[Finding]:
    """Look at everything, one finding after another; a look that fails is a finding, too."""
    looks: dict[str, Look] = {
        "versions": _versions,
        "processor": _processor,
        "GPU": _gpu,
        "memory": _memory,
        "cache folder": _cache_folder,
        "disk": _disk,
        "shared memory": _shared_memory,
        "hub": _hub,
    }
    for name, look in looks.items():
        yield finding(name, look)


def finding(name: str, look: Look) -> Finding:
    """The finding of `look`; a `look` that fails is a finding, too."""
    try:
        fit, told = look()
    except (FinetuneError, OSError, RuntimeError, ValueError) as error:
        fit, told = False, f"{type(error).__name__}: {error}"
    return Finding(name, fit, visible(told))


def _versions() -> tuple[bool, str]:
    """Versions of the packages that numbers and safety depend on."""
    told, fit = [f"Python {platform.python_version()}"], True
    for name in ("finetune-toolkit", "torch", "torchvision", "timm", "numpy", "pillow", "safetensors"):
        version = metadata.version(name)
        floor = FLOORS.get(name, ())
        old = _numbers(version) < floor
        fit = fit and not old
        told.append(f"{name} {version}" + (f" (too old: at least {'.'.join(map(str, floor))})" if old else ""))
    return fit, ", ".join(told)


def _numbers(version: str) -> tuple[int, ...]:
    """2.14.1+cpu as (2, 14, 1)."""
    parts = version.split("+")[0].split(".")
    return tuple(int(digits) for part in parts if (digits := "".join(c for c in part if c.isdigit())))


def _processor() -> tuple[bool, str]:
    flags: set[str] = set()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        flags = next((set(line.split()) for line in file if line.startswith(("flags", "Features"))), set())
    known = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX-512 bf16", "amx_bf16": "AMX bf16"}
    there = [title for flag, title in known.items() if flag in flags]
    return (
        True,
        f"{platform.machine()}, {cores()} cores, torch takes {torch.get_num_threads()}; {', '.join(there) or '-'}",
    )


def _gpu() -> tuple[bool, str]:
    """None is no failure; one that cannot compute is."""
    if not torch.cuda.is_available():
        mps = torch.backends.mps.is_available()
        return True, "Apple GPU" if mps else "none: everything runs on the processor"
    facts = []
    for number in range(torch.cuda.device_count()):
        ones = torch.ones(64, 64, device=f"cuda:{number}")
        if float((ones @ ones).sum()) != 64.0**3:
            return False, f"cuda:{number} computes wrongly"
        about = torch.cuda.get_device_properties(number)
        facts.append(f"{about.name}, {about.total_memory / 2**30:.0f} GiB")
    return True, "; ".join(facts)


def _memory() -> tuple[bool, str]:
    free = free_memory()
    return free > LITTLE_MEMORY, f"{free / 1e9:.1f} GB can be had"


def _cache_folder() -> tuple[bool, str]:
    """Published through the one writer, read back, removed."""
    path = cache_folder() / f"doctor-{uuid.uuid4().hex}"
    write_atomic(path, b"fit")
    read = path.read_bytes()
    path.unlink()
    return read == b"fit", f"{path.parent} can be written"


def _disk() -> tuple[bool, str]:
    place = next(path for path in (cache_folder(), *cache_folder().parents) if path.exists())
    free = {str(path): shutil.disk_usage(path).free for path in (Path.cwd(), place)}
    sizes = ", ".join(f"{size / 1e9:.1f} GB free for {path}" for path, size in free.items())
    return min(free.values()) > LITTLE_DISK, sizes


def _shared_memory() -> tuple[bool, str]:
    """Little of it is no failure: decoding runs in threads."""
    place = Path("/dev/shm")
    size = shutil.disk_usage(place).free / 1e6 if place.is_dir() else 0.0
    return True, f"{size:,.0f} MB free; none of it is needed"


def _hub() -> tuple[bool, str]:
    """No network is no failure: weights at hand go on working."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return True, f"{HUB} is not asked: HF_HUB_OFFLINE is set"
    answered: list[float] = []
    began = time.monotonic()

    def ask() -> None:
        with contextlib.suppress(OSError), socket.create_connection((HUB, 443), timeout=HUB_SECONDS):
            answered.append(time.monotonic() - began)

    asking = threading.Thread(target=ask, daemon=True)  # the look-up of a name has no time limit of its own
    asking.start()
    asking.join(HUB_SECONDS)
    if answered:
        return True, f"{HUB} reachable in {answered[0]:.1f} s"
    return True, f"{HUB} not reachable: published weights cannot be fetched, what is at hand works"

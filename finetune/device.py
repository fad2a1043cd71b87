"""Where and how numbers are computed: device, precision, memory format."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata

import torch

from finetune.errors import ResourceError, UsageError, option
from finetune.files import cores as cores  # a scan asks for them, too, without torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """A device with a precision and a memory format, and why they were chosen.

    Attributes:
        device: where tensors live.
        precision: fp32, bf16 or fp16; the weights are fp32 in any case.
        channels_last: convolutional networks run in NHWC memory order.
        reason: why this precision, for people.
        threads: of the CPU; None for as many as torch takes.
        speed: auto, or off: plain PyTorch, without the work-arounds of `finetune.speed`.
    """

    device: torch.device
    precision: str
    channels_last: bool
    reason: str = ""
    threads: int | None = None
    speed: str = "auto"

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Mixed precision for the forward pass; does nothing in fp32."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=PRECISIONS[self.precision], cache_enabled=False)

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """Move a network to the device and memory format, in place; returns it."""
        module.to(self.device)
        if self.channels_last:
            module.to(memory_format=torch.channels_last)
        return module

    def in_fp32(self) -> Compute:
        """The same, in full precision: for evaluating."""
        return replace(self, precision="fp32", reason="evaluating is in fp32")

    @contextlib.contextmanager
    def own_threads(self) -> Iterator[None]:
        """Inside, torch computes with as many threads as the network is worth; afterwards as before."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def choose(
    device: str = "auto", precision: str = "auto", *, convolutional: bool = True, light: bool = False
) -> Compute:
    """Device and precision as asked for, or the best that the machine has; `FINETUNE_SPEED=off` makes it plain PyTorch.

    Args:
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, fp32, bf16 or fp16. Auto is bf16 where the hardware is fast in it, a CPU's too (but fp32 there
            if the network is `light`); else fp16 on a GPU and fp32 on a CPU.
        convolutional: whether channels_last helps.
        light: a step is so little work that handing it to threads takes longer than doing it. Measured for an MLP on
            MNIST on two busy cores: 9 s of computing with one thread, 76 s with two, which mostly wait for each other.

    Raises:
        ResourceError: the device is not there.
        UsageError: a device or a combination that does not exist, or a FINETUNE_SPEED that is neither off nor auto.
    """
    if (speed := os.environ.get("FINETUNE_SPEED", "auto").lower()) not in ("auto", "off"):
        raise UsageError(f"FINETUNE_SPEED: {speed!r} is not known", "set it to off or auto")
    chosen_device = _device(device)
    if precision == "auto":
        precision, reason = _best_precision(chosen_device, light)
    else:
        reason = "asked for"
    if precision == "fp16" and chosen_device.type == "cpu":
        raise UsageError("train.precision: fp16 needs a GPU", "use bf16 or fp32 on a CPU")
    return Compute(chosen_device, precision, convolutional, reason, threads=1 if light else None, speed=speed)


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"train.device: no such device: {name}", "use auto, cpu, cuda, cuda:N or mps") from error
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= counts.get(device.type, 0):
        problem = "no CUDA GPU found" if device.type == "cuda" and not counts["cuda"] else "no such device here"
        remedy = f"use {option('device', 'cpu')}, or auto for the best available"
        raise ResourceError(f"train.device: {name}: {problem}", remedy)
    return device


def _best_precision(device: torch.device, light: bool) -> tuple[str, str]:
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "this GPU computes in bf16"
        return "fp16", "this GPU has no bf16"
    if device.type == "cpu" and not light and bf16_is_fast():
        return "bf16", "this CPU computes in bf16"
    return "fp32", f"fp32 is the default on {device.type}"


def bf16_is_fast() -> bool:
    """Whether the CPU multiplies in bf16 faster than in fp32.

    With AMX it does, and AMD's with AVX-512 do, twice as fast. Intel's AVX-512 alone is half as fast in bf16 as in fp32
    (measured on a Xeon whose AMX was hidden); other CPUs compute in fp32 and round.
    """
    return cpu_has("amx_bf16") or (is_amd() and cpu_has("avx512_bf16"))


def is_amd() -> bool:
    """Whether the processor is made by AMD."""
    return "AMD" in str(_capabilities().get("cpu_name", ""))


def cpu_has(feature: str) -> bool:
    """Whether the processor has a feature, by torch's name."""
    return bool(_capabilities().get(feature))


def _capabilities() -> dict[str, object]:
    """The processor's capabilities by torch's names; empty if torch is too old to tell."""
    return dict(getattr(torch.cpu, "get_capabilities", dict)())


@contextlib.contextmanager
def own_randomness() -> Iterator[None]:
    """Leave the caller's global random state as it was; inside, the global generator may be seeded freely."""
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch does not annotate it
    devices = list(range(torch.cuda.device_count())) if used else []
    with torch.random.fork_rng(devices=devices):
        yield


def seed(number: int, device: torch.device) -> None:
    """Seed what this device's work draws from.

    `torch.manual_seed` would also prepare every kind of device that is not there, each with a stack trace: a third of
    the time of a small network's step.
    """
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("finetune-toolkit", "torch", "torchvision", "timm", "numpy", "pillow")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def free_memory() -> int:
    """Bytes of main memory available without swapping."""
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/meminfo", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2

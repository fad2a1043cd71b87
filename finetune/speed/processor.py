"""Questions of this room about the processor and about the memory format of a tensor."""

from __future__ import annotations

import functools

import torch

from finetune.device import cpu_has, is_amd


@functools.cache
def mkl_is_slow() -> bool:
    """Whether PyTorch's matrix products in fp32, which are Intel's MKL, leave much of the processor unused.

    So they do on AMD's with AVX-512: half of what oneDNN reaches there.
    """
    return is_amd() and cpu_has("avx512_f")


def has_onednn() -> bool:
    """Whether this PyTorch was built with oneDNN, as those for Intel's and AMD's processors are."""
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]  # torch does not annotate it


def compute_dtype(values: torch.Tensor) -> torch.dtype:
    """The type in which a CPU's convolution computes, autocast considered."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else values.dtype


def is_channels_last(values: torch.Tensor) -> bool:
    """Whether a tensor [N, C, H, W] lies in memory with channel next to channel, and in no other order."""
    return values.is_contiguous(memory_format=torch.channels_last) and not values.is_contiguous()

"""Keep large buffers: by default glibc gives each back to the system, and faults its pages in again at every step."""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""

KEPT = 1 << 30
"""Bytes: blocks up to this size come from the heap, and so much may lie free at its top."""


def keep_large_buffers() -> None:
    """Raise both thresholds for this process, unless the user has set them; does nothing where there is no glibc."""
    if not sys.platform.startswith("linux") or {"GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys():
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_THRESHOLD, KEPT)
    mallopt(M_TRIM_THRESHOLD, KEPT)

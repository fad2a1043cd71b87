"""Settings of the C library, OpenMP and Python for the command line's own process; scripts decide for themselves.

Large buffers are kept: by default glibc gives each back to the system, and faults its pages in again at every step.
Threads that wait let others work: by default those of libgomp turn in circles 300,000 times, on the very cores
that images are decoded on. Garbage is searched for rarely: importing PyTorch makes half a million objects that stay,
and Python goes through them again and again, once more for over a second when it ends.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time

STARTED = time.perf_counter() - time.process_time()
"""When this process began, by `time.perf_counter`: until here it has done nothing but compute."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""

KEPT = 1 << 30
"""Bytes: blocks up to this size come from the heap, and so much may lie free at its top."""

SPINS = "10000"
"""Turns of a waiting thread before it sleeps; libgomp's own is 300,000."""

YOUNG = 10_000
"""New objects after which Python looks among them for garbage that refers to itself; its own is 700."""


def keep_large_buffers() -> None:
    """Raise both thresholds for this process, unless the user has set them; does nothing where there is no glibc."""
    if not sys.platform.startswith("linux") or {"GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys():
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library than glibc: it has no such thresholds
        return
    mallopt(M_MMAP_THRESHOLD, KEPT)
    mallopt(M_TRIM_THRESHOLD, KEPT)


def wait_briefly() -> None:
    """Shorten the busy waiting of OpenMP's threads, unless the user has a say in it; before torch is imported."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS


def collect_rarely() -> None:
    """Search for garbage less often; before anything large is imported."""
    gc.set_threshold(YOUNG)


def collect_no_more() -> None:
    """Spare Python the last search for garbage; for a process that is about to end."""
    gc.freeze()

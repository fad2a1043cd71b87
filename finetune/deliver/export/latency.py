"""How long an answer takes on this machine, beside PyTorch's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

REPEATS = 20
"""Times that each is measured; the median is told."""

SECONDS = 1.0
"""Time after which a measurement ends early: on a busy machine, 20 repeats of 32 pictures would take minutes."""

FEW = 5
"""Repeats below which a median says little."""

BATCHES, THREADS = (1, 32), (1, 2)

Runner = Callable[[int], Callable[[np.ndarray], object]]
"""From a number of threads to a function of pixels, float32 [N, C, H, W]."""


def measure(runners: Mapping[str, Runner], example: np.ndarray) -> list[dict[str, Any]]:
    """Milliseconds of every runner at each batch size and number of threads.

    Args:
        runners: by name.
        example: pixels of one picture, float32 [1, C, H, W].
    """
    rows = []
    for threads in THREADS:
        ready = {name: runner(threads) for name, runner in runners.items()}
        for batch in BATCHES:
            pixels = np.ascontiguousarray(np.repeat(example, batch, axis=0))
            for name, run in ready.items():
                milliseconds, repeats = _median(run, pixels)
                rows.append(
                    {"program": name, "batch": batch, "threads": threads, "ms": milliseconds, "repeats": repeats}
                )
    return rows


def _median(run: Callable[[np.ndarray], object], pixels: np.ndarray) -> tuple[float, int]:
    run(pixels)  # the first call prepares
    seconds: list[float] = []
    while not seconds or (len(seconds) < REPEATS and sum(seconds) < SECONDS):
        start = time.perf_counter()
        run(pixels)
        seconds.append(time.perf_counter() - start)
    return round(statistics.median(seconds) * 1000, 3), len(seconds)


def latency_text(rows: list[dict[str, Any]]) -> str:
    """A small table for people: a line a program, a column for each batch size and number of threads.

    Figures that are the median of fewer than `FEW` repeats have a tilde.
    """
    columns = list(dict.fromkeys((row["batch"], row["threads"]) for row in rows))
    programs = list(dict.fromkeys(row["program"] for row in rows))
    figures = {(row["program"], row["batch"], row["threads"]): _figure(row) for row in rows}
    head = ["ms (median)", *(f"batch {batch}, {threads} thread{'s' * (threads > 1)}" for batch, threads in columns)]
    lines = [head, *([name, *(figures[name, *column] for column in columns)] for name in programs)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    table = ["  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in lines]
    rough = [f"~ measured fewer than {FEW} times: the machine is slow or busy"]
    return "\n".join(table + (rough if any(row["repeats"] < FEW for row in rows) else []))


def _figure(row: Mapping[str, Any]) -> str:
    return f"{'~' if row['repeats'] < FEW else ''}{row['ms']:.1f}"

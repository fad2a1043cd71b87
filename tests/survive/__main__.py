"""The long checks through the real command line: `python -m tests.survive [ROW…]`; figures at the end.

Rows run one after another in folders of their own; the exit code is 1 if one failed. A row whose tool is missing is
named as not run. `--quick` takes a share of some of them, with commands that are forked and not started from nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.survive import disks, kills, ranks, signals, surroundings, tools, vectors
from tests.survive.tools import Job
from tests.survive.warm import preload

Row = tuple[Callable[[Path], str], tuple[str, ...]]
ROWS: dict[str, Row] = {
    "C01": (partial(kills.random_kills, cache="off"), ()),
    "C01-cache": (partial(kills.random_kills, cache="{views: 4}", kills=10, seed=1), ()),
    "C01-filling": (kills.kills_while_filling, ()),
    "C02+C23": (kills.every_kill_point, ("strace",)),
    "C03": (kills.several_kills, ()),
    "C04": (kills.kills_at_epoch_edges, ("strace",)),
    "C06": (signals.c06_sigterm_in_a_step, ()),
    "C07": (signals.c07_sigterm_elsewhere, ()),
    "C08": (signals.c08_sigint_twice, ()),
    "C10": (signals.c10_parent_killed, ()),
    "C11": (signals.c11_paused, ()),
    "C12": (disks.c12_disk_full, ("unshare", "mount")),
    "C13": (disks.c13_file_size_limit, ("prlimit",)),
    "C14": (disks.c14_fsync_fails, ("strace",)),
    "C15": (disks.c15_rename_fails, ("strace",)),
    "C16": (disks.c16_temporary_folder_elsewhere, ("strace",)),
    "C17": (disks.c17_not_writable, ("unshare", "mount")),
    "C30": (signals.c30_two_trainers, ()),
    "C31": (signals.c31_moved, ()),
    "C32": (signals.c32_clock, ()),
    "R01": (ranks.r01_one_is_asked_to_stop, ()),
    "R02": (ranks.r02_one_is_killed, ()),
    "R03": (ranks.r03_two_machines, ("ip",)),
    "R04": (ranks.r04_port_taken, ()),
    "E01": (surroundings.e01_tiny_shared_memory, ("unshare", "mount")),
    "E02": (surroundings.e02_few_descriptors, ("prlimit",)),
    "E04": (surroundings.e04_closed_pipe, ("bash",)),
    "E05": (surroundings.e05_ascii_terminal, ()),
    "E06": (surroundings.e06_home, ()),
    "E07": (surroundings.e07_import_api, ()),
    "V01-lancedb": (partial(vectors.killed_embedding, database="lancedb"), ()),
    "V01-parquet": (partial(vectors.killed_embedding, database="parquet"), ()),
}
QUICK: dict[str, Row] = {
    "C01-cache": (partial(kills.random_kills, cache="{views: 4}", kills=3, seed=2), ()),
    "C02+C23": (partial(kills.every_kill_point, part=(9, 40)), ("strace",)),
    "C08": ROWS["C08"],
    "C14": (partial(disks.c14_fsync_fails, whens=(15,)), ("strace",)),
}


def main(wanted: list[str]) -> int:
    """Run the rows whose names begin with one of `wanted` (all, if none is named), and sum up."""
    os.environ["OMP_NUM_THREADS"] = "1"
    Job.all_warm = "--quick" in wanted
    if Job.all_warm:
        preload()
    rows, wanted = QUICK if Job.all_warm else ROWS, [name for name in wanted if name != "--quick"]
    counts = {"passed": 0, "failed": 0, "not run": 0}
    began = time.monotonic()
    for name, (check, needed) in rows.items():
        if not wanted or name.startswith(tuple(wanted)):
            clock = time.monotonic()
            result, told = outcome(check, needed)
            counts[result] += 1
            print(f"{name:12} {result:8} {time.monotonic() - clock:6.0f} s  {told}", flush=True)
    print(f"\n{', '.join(f'{n} {what}' for what, n in counts.items())}, {(time.monotonic() - began) / 60:.1f} minutes")
    return 1 if counts["failed"] else 0


def outcome(check: Callable[[Path], str], needed: tuple[str, ...]) -> tuple[str, str]:
    """How a row ended, and its figures; what a failed one left is kept to look at."""
    if missing := tools.needs(*needed):
        return "not run", missing
    folder = Path(tempfile.mkdtemp(prefix="survive-"))
    try:
        told = check(folder / "job")
    except Exception as error:  # a row that fails in any way is a failed row, and the next one runs
        return "failed", f"{type(error).__name__}: {error} (kept: {folder})"
    shutil.rmtree(folder)
    return ("not run" if told.startswith("not run") else "passed"), told.removeprefix("not run: ")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

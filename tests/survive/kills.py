"""Killed at random, and at every system call that changes what lies in a folder: C01 to C04 and C23."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from tests import makers
from tests.survive import tools
from tests.survive.tools import Call, Job

WRITES = "write,writev,pwrite64"


def random_kills(folder: Path, cache: str, kills: int = 20, seed: int = 0) -> str:
    """C01: SIGKILL at seeded random times; each resumed to the reference."""
    job = Job.make(folder, cache=cache, images=24, epochs=4)
    before = makers.tree_hash(folder / "images")
    process = job.start("run", "job.yaml", "--out", "reference")
    assert job.wait_for("reference/run.json", process)
    began = time.monotonic()
    assert job.end(process).rc == 0, job.said()
    length, reference = time.monotonic() - began, job.sha256("reference")
    rng, landed, tried = random.Random(seed), 0, 0
    while landed < kills and tried < 2 * kills:
        tried += 1
        job.fresh()
        process = job.start("run", "job.yaml", "--out", "o")
        if not job.wait_for("o/run.json", process):
            continue
        time.sleep(rng.uniform(0, 0.9 * length))
        process.send_signal(signal.SIGKILL)
        landed += job.end(process).rc == 137
        job.resume_to(reference)
        assert makers.tree_hash(folder / "images") == before
    assert landed >= 0.75 * kills, f"only {landed} of {tried} kills landed in a run"
    return f"{landed} of {tried} kills landed, all resumed to the reference"


def kills_while_filling(folder: Path, kills: int = 3) -> str:
    """C01 with the cache being filled: killed at the first write of a table, and while its file grows."""
    job = Job.make(folder, cache="{views: 3}", images=60)
    assert job.do("run", "job.yaml", "--out", "reference").rc == 0
    landed = 0
    for number in range(kills):
        job.fresh()
        process = job.start("run", "job.yaml", "--out", "o")
        until = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < until:
            if len(list(job.cache.glob("features/*"))) + len(list(job.cache.glob("features/.*"))) > number:
                break
        process.send_signal(signal.SIGKILL)
        landed += job.end(process).rc == 137
        job.resume_to(job.sha256("reference"))
    assert landed == kills
    return f"{landed} of {kills} kills landed, all resumed to the reference"


def every_kill_point(folder: Path, part: tuple[int, int] = (0, 1), calls: Sequence[str] = tools.CALLS) -> str:
    """C02 and C23: SIGKILL at each fsync, rename, unlink and mkdir of a run; `part` (i, n) takes every n-th point."""
    job = Job.make(folder, epochs=2, cache="{views: 2}", checkpoint="{every_steps: 2, keep: 1}")
    assert job.do("run", "job.yaml", "--out", "o").rc == 0
    reference = job.sha256()
    job.warm = True
    seen = trace(job, folder / "trace")
    assert job.sha256() == reference, "a warm start gives other bits than a cold one"
    offences = list(tools.order_offences(tools.own(seen, folder / "o", job.cache)))
    assert not offences, offences
    points = [call for call in seen if call.name in calls]
    taken = points[part[0] :: part[1]]
    failures = [text for call in taken if (text := kill_at(job, call, seen, reference)) is not None]
    assert not failures, failures
    renames = sum(call.name.startswith("rename") for call in seen)
    return f"{len(taken)} of {len(points)} kill points, 0 failures; {renames} renames, each after an fsync"


def trace(job: Job, to: Path) -> list[Call]:
    """The calls of one whole run, and a new folder for the next."""
    job.fresh()
    watched = f"trace={','.join(known_calls())},{WRITES}"
    done = job.do("run", "job.yaml", "--out", "o", before=["strace", "-f", "-y", "-o", to, "-e", watched])
    assert done.rc == 0, done.said
    return tools.read_trace(to)


def known_calls() -> list[str]:
    """Those that this machine has; newer ones lack the oldest."""
    return (
        list(tools.CALLS)
        if os.uname().machine == "x86_64"
        else [c for c in tools.CALLS if c.endswith(("at", "c", "2"))]
    )


def kill_at(job: Job, call: Call, seen: Sequence[Call], reference: str) -> str | None:
    """Kill a run at one call; what was wrong afterwards, or None."""
    job.fresh()
    inject = f"inject={call.name}:signal=SIGKILL:when={call.number}"
    strace = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call.name}", "-e", inject]
    point = f"{call.name} {call.number} ({' '.join(Path(path).name for path in call.paths)})"
    try:
        killed = job.do("run", "job.yaml", "--out", "o", before=strace)
        assert killed.rc == 137, f"ended with {killed.rc}"
        look_at(job, seen[: seen.index(call)])
        job.resume_to(reference)
    except AssertionError as error:
        return f"{point}: {error}"
    return None


def look_at(job: Job, past: Sequence[Call]) -> None:
    """What was published is whole, and what must have been there by then is there."""
    out = job.folder / "o"
    if out.exists():
        assert (done := job.do("verify", "o")).rc == 0, done.said
    published = {Path(call.paths[-1]).name for call in past if call.name.startswith("rename")}
    if any(name.startswith("epoch-") and name.endswith(".pth") for name in published):
        assert tools.require_whole(out) >= 1, "no whole checkpoint"
    if "best.pth" in published:
        assert tools.whole(out / "checkpoints" / "best.pth"), "the best checkpoint is gone"


def several_kills(folder: Path) -> str:
    """C03: killed, resumed and killed again within one epoch, three times over."""
    job = Job.make(folder, images=24, epochs=2, checkpoint="{every_steps: 1}")
    assert job.do("run", "job.yaml", "--out", "reference").rc == 0
    landed = 0
    for number in (2, 5, 8):
        process = job.start(*(["resume", "o"] if landed else ["run", "job.yaml", "--out", "o"]))
        if job.wait_for(f"o/checkpoints/epoch-0000-step-{number:07d}.pth", process):
            process.send_signal(signal.SIGKILL)
        landed += job.end(process).rc == 137
    assert landed == 3, f"only {landed} kills landed"
    job.resume_to(job.sha256("reference"))
    return "3 kills in one epoch, resumed to the reference"


def kills_at_epoch_edges(folder: Path) -> str:
    """C04: after the last step before validation; after validation before its record is saved."""
    job = Job.make(folder, checkpoint="{every_steps: 1}")
    assert job.do("run", "job.yaml", "--out", "o").rc == 0
    reference = job.sha256()
    job.warm = True
    seen = trace(job, folder / "trace")
    names = [Path(call.paths[-1]).name if call.paths else "" for call in seen]
    edges = [i for i, (c, name) in enumerate(zip(seen, names, strict=True)) if c.name == "rename" and is_edge(name)]
    assert len(edges) >= 6, names
    # the call after the last step's save, the first of the best epoch's save, and that of the history
    failures = [text for edge in edges if (text := kill_at(job, seen[edge], seen, reference)) is not None]
    assert not failures, failures
    return f"{len(edges)} kills at the edges of epochs, all resumed to the reference"


def is_edge(name: str) -> bool:
    return name in ("best.json", "best.pth", "history.csv") or name.endswith(("0000003.pth", "0000006.pth"))

"""Signals, locks, and a run that is moved or whose clock lies: C06 to C08, C10, C11, C30 to C32."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

from tests.survive import tools
from tests.survive.tools import CHECKPOINT, RUN, Job, reference_of

HANGING = ("strace", "-f", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:delay_enter=3000000:when=9+")
"""Each fsync from the ninth on takes three seconds more; strace lets go of such a call only when they are over."""


def interrupted(job: Job, at: str, signum: int, expect: int, within: float = 60) -> str:
    """Send a signal once the command has come to `at`; it ends with `expect` and says how to go on."""
    process = job.start(*RUN)
    assert job.wait_for(at, process), f"never came to {at}: {job.said()}"
    process.send_signal(signum)
    began = time.monotonic()
    done = job.end(process, within)
    assert done.rc == expect, (done.rc, done.said)
    assert "finetune resume" in done.said
    assert "Traceback" not in done.said
    return f"{expect} after {time.monotonic() - began:.1f} s"


def c06_sigterm_in_a_step(folder: Path) -> str:
    job = Job.make(folder, images=40, epochs=4)
    reference = reference_of(job)
    told = interrupted(job, CHECKPOINT, signal.SIGTERM, 143)
    step = re.search(r"Saved at step (\d+)", job.said())
    assert step, job.said()
    assert list((folder / "o" / "checkpoints").glob(f"epoch-*-step-{int(step[1]):07d}.pth"))
    job.resume_to(reference)
    return told


def c07_sigterm_elsewhere(folder: Path) -> str:
    job = Job.make(folder, images=40, cache="{views: 3}")
    reference = reference_of(job)
    told = []
    for place in ("o/run.json", "phase 0: epoch 0:", "o/checkpoints/epoch-0000-step-0000015.json"):
        job.fresh()
        told.append(interrupted(job, place, signal.SIGTERM, 143))
        job.resume_to(reference)
    return f"in the scan, in the first epoch, at validation: {', '.join(told)}"


def c08_sigint_twice(folder: Path) -> str:
    job = Job.make(folder, images=40, epochs=4)
    reference = reference_of(job)
    told = interrupted(job, CHECKPOINT, signal.SIGINT, 130)
    job.resume_to(reference)
    if missing := tools.needs("strace"):
        return f"{told}; the second signal was not tried: {missing}"
    job.fresh()
    process = job.start(*RUN, before=HANGING)
    assert job.wait_for("o/checkpoints", process)
    time.sleep(0.5)
    job.signal(process, signal.SIGINT)
    assert job.wait_for("SIGINT: stopping", process), job.said()
    time.sleep(0.5)
    began = time.monotonic()
    job.signal(process, signal.SIGINT)
    done = job.end(process, 60)
    took = time.monotonic() - began
    assert done.rc == 130, (done.rc, done.said)
    assert "finetune resume" not in done.said, "the second signal was not heard"
    job.resume_to(reference)
    return f"{told}; the second, in a save that hangs, ends it after {took:.1f} s"


def c10_parent_killed(folder: Path) -> str:
    job = Job.make(folder, images=40, epochs=4)
    (folder / "job.yaml").write_text(
        (folder / "job.yaml").read_text().replace("folder: images", "folder: images, workers: 4")
    )
    process = job.start(*RUN)
    assert job.wait_for(CHECKPOINT, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    assert job.end(process).rc == 137  # `end` fails if one of the session is left
    assert not children, "a process was started: workers are threads"
    return "no process besides the one killed: workers are threads"


def c11_paused(folder: Path, seconds: float = 60) -> str:
    job = Job.make(folder)
    reference = reference_of(job)
    process = job.start(*RUN)
    assert job.wait_for(CHECKPOINT, process)
    process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    process.send_signal(signal.SIGCONT)
    assert job.end(process).rc == 0
    job.require_same(reference)
    return f"paused {seconds:.0f} s, the same bits"


def c30_two_trainers(folder: Path) -> str:
    job = Job.make(folder, images=40, epochs=4)
    reference = reference_of(job)
    first = job.start(*RUN)
    assert job.wait_for(CHECKPOINT, first)
    first.send_signal(signal.SIGSTOP)
    for command in (RUN, ("resume", "o")):
        done = job.do(*command)
        assert done.rc == 6, (command, done.rc, done.said)
        assert f"process {first.pid} is at work" in done.said
    first.kill()
    job.end(first)
    job.resume_to(reference)
    return "run and resume: 6 with the number of the holder; free after kill -9"


def c31_moved(folder: Path) -> str:
    job = Job.make(folder)
    reference = reference_of(job)
    process = job.start(*RUN)
    assert job.wait_for(CHECKPOINT, process)
    process.kill()
    job.end(process)
    (folder / "o").rename(folder / "p")
    job.resume_to(reference, "p")
    assert not (folder / "o").exists()
    return "resumed to the reference from the new place"


def c32_clock(folder: Path) -> str:
    job = Job.make(folder, checkpoint="{every_steps: 1, keep: 3}")
    reference = reference_of(job)
    interrupted(job, "o/checkpoints/epoch-0001-step-0000004.json", signal.SIGTERM, 143)
    newest = sorted((folder / "o" / "checkpoints").glob("epoch-*.pth"))[-1]
    for path in (newest, newest.with_suffix(".json")):
        os.utime(path, (1e9, 1e9))
    done = job.resume_to(reference)
    assert f"resuming at step {int(newest.stem[-7:])} " in done.said, done.said
    return "the highest step wins, whatever its time"

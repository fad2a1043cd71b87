"""Disks, limits, signals and locks: C06 to C08, C10 to C17, C30 to C32, and E01 to E06."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.survive import tools
from tests.survive.tools import Job

CHECKPOINT = "o/checkpoints/epoch-0000-step-0000002.json"
HANGING = ("strace", "-f", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:delay_enter=3000000:when=9+")
"""Each fsync from the ninth on takes three seconds more; strace lets go of such a call only when they are over."""
RUN = ("run", "job.yaml", "--out", "o")


def reference_of(job: Job) -> str:
    """The weights of an undisturbed run."""
    assert job.do("run", "job.yaml", "--out", "reference").rc == 0
    return job.sha256("reference")


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
    step = re.search(r"stopped at step (\d+)", job.said())
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


def c12_disk_full(folder: Path) -> str:
    job = Job.make(folder)
    reference = reference_of(job)
    size = next((folder / "reference" / "checkpoints").glob("epoch-*.pth")).stat().st_size
    script = f"""
        mount -t tmpfs -o size={int(1.5 * size)} none o || exit 77
        {tools.FINETUNE} run job.yaml --out o; code=$?
        [ $code = 6 ] || exit 78
        ls -A o o/checkpoints; find o -name '.*.tmp' | grep . && exit 79
        {tools.FINETUNE} verify o || exit 80
        mount -o remount,size={20 * size} o || exit 81
        {tools.FINETUNE} resume o || exit 82
        cp -r o kept
    """
    (folder / "o").mkdir()
    done = script_in_namespace(job, script)
    if done.rc == 77:
        return "not run: no tmpfs may be mounted here"
    assert done.rc == 0, (done.rc, done.said)
    assert re.search(r"\[ENOSPC\] \(needed: [\d,]+ bytes; free: [\d,]+ bytes\)", done.said), done.said
    job.require_same(reference, "kept")
    return "6 with the bytes needed and free, nothing half-written left, resumed to the reference with more room"


def script_in_namespace(job: Job, script: str) -> tools.Done:
    """A shell script where mounting is allowed and is seen by nobody else."""
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        cwd=job.folder,
        env=job.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )
    said = done.stdout.decode("utf-8", "backslashreplace")
    assert "Traceback" not in said, said
    return tools.Done(77 if "unshare:" in said else done.returncode, said)


def refused(job: Job, error: str, before: Sequence[object]) -> tools.Done:
    """A run behind `before` ends with 6, naming `error`, with nothing half-written."""
    job.fresh()
    done = job.do(*RUN, before=before)
    assert done.rc == 6, (done.rc, done.said)
    assert error in done.said, done.said
    assert "remedy: " in done.said
    assert not list(job.folder.glob("o/**/.*.tmp"))
    if (job.folder / "o").exists():
        tools.require_whole(job.folder / "o")
    return done


def c13_file_size_limit(folder: Path) -> str:
    job = Job.make(folder)
    reference = reference_of(job)
    size = next((folder / "reference" / "checkpoints").glob("epoch-*.pth")).stat().st_size
    refused(job, "EFBIG", ["prlimit", f"--fsize={size // 2}", "--"])
    job.resume_to(reference)
    refused(job, "EFBIG", ["prlimit", "--fsize=1000", "--"])  # less than run.json, room for what is said
    return "6 with EFBIG at half a checkpoint and at run.json, resumed to the reference"


def injected(call: str, error: str, when: int, log: Path, y: bool = False) -> list[str]:
    """strace that makes a call fail."""
    inject = f"inject={call}:error={error}:when={when}"
    return ["strace", "-f", *(["-y"] if y else []), "-o", str(log), "-e", f"trace={call},openat", "-e", inject]


def c14_fsync_fails(folder: Path, whens: Sequence[int] = (3, 15, 17)) -> str:
    job = Job.make(folder)
    reference = reference_of(job)
    for when in whens:
        log = folder / f"fsync-{when}"
        refused(job, "EIO", injected("fsync", "EIO", when, log, y=True))
        lines = log.read_text("utf-8", "backslashreplace").splitlines()
        failed = next(i for i, line in enumerate(lines) if "EIO" in line)
        file = re.search(r"fsync\(\d+<([^>]*)>", lines[failed])
        assert file
        again = [line for line in lines[failed + 1 :] if f"<{file[1]}>" in line and "fsync(" in line]
        assert not again or not file[1].endswith(".tmp"), again
        assert "saved" not in job.said().lower().replace("what was saved before", "")
        if (folder / "o" / "run.json").exists():
            job.resume_to(reference)
    numbers = ", ".join(map(str, whens))
    return f"6 with EIO at fsync {numbers}, never a second one on that file, resumed to the reference"


def c15_rename_fails(folder: Path) -> str:
    job = Job.make(folder)
    for when in (1, 9):
        log = folder / f"rename-{when}"
        refused(job, "EXDEV", injected("rename", "EXDEV", when, log))
        named = re.findall(r'openat\([^"]*"([^"]*/o/[^"]*)", [^)]*O_WRONLY[^)]*\)', log.read_text("utf-8", "replace"))
        assert all(name.endswith(".tmp") for name in named), "something stood in for the rename"
    return "6 with EXDEV at the 1st and 9th rename, no copy instead"


def c16_temporary_folder_elsewhere(folder: Path) -> str:
    job = Job.make(folder)
    elsewhere = Path("/dev/shm") if Path("/dev/shm").is_dir() else folder.with_name("elsewhere")
    place = elsewhere / f"finetune-{os.getpid()}"
    place.mkdir(parents=True)
    job.env = {"TMPDIR": str(place)}
    try:
        log = folder / "writes"
        watched = ["strace", "-f", "-y", "-o", log, "-e", "trace=write,pwrite64,writev,rename"]
        assert job.do(*RUN, before=watched).rc == 0
        lines = log.read_text("utf-8", "backslashreplace").splitlines()
        sizes = {path: sum(written(line) for line in lines if f"<{path}" in line) for path in (place, folder / "o")}
        assert sizes[folder / "o"] > 100_000, "strace saw no checkpoint"
        assert sizes[place] < 1000, sizes
        assert not list(place.iterdir())
    finally:
        shutil.rmtree(place)
    return f"{sizes[place]:,} bytes written below TMPDIR, {sizes[folder / 'o']:,} below the run folder"


def written(line: str) -> int:
    """How many bytes a write in an strace output wrote."""
    match = re.search(r"\bp?write(?:64|v)?\(.* = (\d+)$", line)
    return int(match[1]) if match else 0


def c17_not_writable(folder: Path) -> str:
    job = Job.make(folder)
    script = f"""
        mkdir -p ro && mount --bind ro ro && mount -o remount,ro,bind ro || exit 77
        {tools.FINETUNE} run job.yaml --out ro/o; [ $? = 6 ] || exit 78
    """
    done = script_in_namespace(job, script)
    if done.rc == 77:
        return "not run: no bind mount is allowed here"
    assert done.rc == 0, done.said
    assert "EROFS" in done.said
    assert "images of 3 classes" not in done.said, "the images were read first"
    return "6 with EROFS before an image was read"


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
    assert f"going on from step {int(newest.stem[-7:])} " in done.said, done.said
    return "the highest step wins, whatever its time"


def e01_tiny_shared_memory(folder: Path) -> str:
    job = Job.make(folder)
    script = f"mount -t tmpfs -o size=1m none /dev/shm || exit 77; {tools.FINETUNE} run job.yaml --out o"
    done = script_in_namespace(job, script)
    if done.rc == 77:
        return "not run: no tmpfs may be mounted here"
    assert done.rc == 0, (done.rc, done.said)
    return "0: shared memory is not used, workers are threads"


def e02_few_descriptors(folder: Path) -> str:
    job = Job.make(folder)
    codes = []
    for limit in (64, 24, 12):
        job.fresh()
        done = job.do(*RUN, before=["prlimit", f"--nofile={limit}", "--"])
        assert done.rc in (0, 6), (limit, done.rc, done.said)
        assert done.rc == 0 or "EMFILE" in done.said or "descriptors" in done.said, done.said
        codes.append(f"{limit}: {done.rc}")
    return "exit codes by limit: " + ", ".join(codes)


def e04_closed_pipe(folder: Path) -> str:
    job = Job.make(folder, images=40, epochs=4)
    for command in ("check job.yaml", "models", "run job.yaml --out o 2>&1"):
        script = f"{tools.FINETUNE} {command} | head -1; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=job.environment(), capture_output=True, timeout=300
        )
        said = (done.stdout + done.stderr).decode()
        assert "Traceback" not in said, said
        assert "Exception ignored" not in said, said
        assert done.returncode == 0, (command, done.returncode, said)
    assert job.sha256(), "the run has not gone on"
    process = job.start(*RUN[:-1], "p", before=["bash", "-c", 'exec "$@" > >(true) 2>&1', "-"])
    assert job.wait_for(CHECKPOINT.replace("o/", "p/", 1), process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert json.loads((folder / "p" / "run.json").read_text())["status"] == "stopped"
    return "check and models end with 0; run goes on to its end, and saves at SIGINT"


def e05_ascii_terminal(folder: Path) -> str:
    job = Job.make(folder)
    (folder / "images" / "ant").rename(folder / "images" / "café")
    job.env = {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii"}
    rest = (("predict", "o", "images", "--csv"), ("evaluate", "o"), ("verify", "o"))
    for command in (("check", "job.yaml"), RUN, *rest):
        done = job.do(*command)
        assert done.rc == 0, (command, done.said)
    assert "café" in json.loads((folder / "o" / "run.json").read_text("utf-8"))["classes"]
    job.env |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # now Python takes the names of files for ASCII, too
    for command in (("run", "job.yaml", "--out", "p"), ("predict", "p", "images", "--csv")):
        done = job.do(*command)
        assert done.rc == 0, (command, done.said)
        assert done.said.isascii(), done.said
    return "check, run, predict, evaluate, verify; run and predict without Python's UTF-8 mode"


def e06_home(folder: Path) -> str:
    job = Job.make(folder, cache="{views: 3}")
    job.env = {"HOME": "/proc/nowhere", "XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": ""}
    assert job.do(*RUN).rc == 0, job.said()
    env = {name: value for name, value in job.environment().items() if name != "HOME" and not name.startswith("XDG")}
    bare = subprocess.run([tools.FINETUNE, "run", "job.yaml", "--out", "p"], cwd=folder, env=env, capture_output=True)
    assert bare.returncode == 0, bare.stderr
    assert job.sha256("p") == job.sha256()
    for cache in ("", "/proc/nowhere/cache"):
        job.env["FINETUNE_CACHE"] = cache
        done = job.do("run", "job.yaml", "--out", "q")
        assert done.rc == 6, (done.rc, done.said)
        assert "FINETUNE_CACHE=FOLDER" in done.said, done.said
    return "a HOME that cannot be written and none at all: 0; nor the cache: 6 with what to set"


def e07_import_api(folder: Path) -> str:
    job = Job.make(folder)
    script = Path(__file__).with_name("from_a_thread.py")
    done = subprocess.run([sys.executable, script], cwd=folder, env=job.environment(), capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()

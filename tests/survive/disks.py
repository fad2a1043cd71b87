"""Disks that are full, failing or not to be written: C12 to C17."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.survive import tools
from tests.survive.tools import RUN, Job, reference_of, script_in_namespace


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

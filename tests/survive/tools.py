"""What the long checks are made of: a job, the command line at work in it, system calls seen."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from tests import makers
from tests.survive.warm import SAID, Warm

FINETUNE = Path(sys.executable).with_name("finetune")
CALLS = ("fsync", "rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir")
"""What changes which names there are, or makes it last."""

CHECKPOINT = "o/checkpoints/epoch-*-step-*.json"
"""Is there a little after a job of `RUN` has begun to train."""

RUN = ("run", "job.yaml", "--out", "o")

Process = subprocess.Popen[bytes] | Warm
"""A command at work."""

RECIPE = """\
data: {{folder: images, split: {{val: 0.25, test: 0.25}}, augment: light}}
model:
  backbone: timm/test_resnet
  weights: none
  weights_missing: allow
  preprocess: {{size: 32}}
  unfreeze: {unfreeze}
train: {{epochs: {epochs}, batch_size: 4, lr: 0.01, precision: fp32, cache: {cache}, checkpoint: {checkpoint}}}
"""


@dataclass
class Done:
    """How a command ended: its exit code as a shell gives it, and all that it said."""

    rc: int
    said: str


@dataclass
class Job:
    """A folder with `job.yaml` and `images/`, and the command line at work in it.

    Attributes:
        folder: of the job.
        cache: the cache folder.
        env: laid over this process's environment.
        warm: whether the commands are forks of this process, which has torch already, and not started from nothing.
    """

    all_warm: ClassVar[bool] = False

    folder: Path
    cache: Path
    env: dict[str, str] = field(default_factory=dict)
    warm: bool = False

    @classmethod
    def make(
        cls,
        folder: Path,
        *,
        epochs: int = 3,
        cache: str = "off",
        checkpoint: str = "{every_steps: 2}",
        unfreeze: str = '{head: 0, "last:2": 1}',
        images: int = 8,
    ) -> Job:
        """A new one, with so many images of each of three classes."""
        makers.class_folders(folder / "images", dict.fromkeys(("ant", "bee", "cat"), images))
        text = RECIPE.format(epochs=epochs, cache=cache, checkpoint=checkpoint, unfreeze=unfreeze)
        (folder / "job.yaml").write_text(text)
        return cls(folder, folder.with_name(f"{folder.name}-cache"))

    def environment(self) -> dict[str, str]:
        """Of the commands: one thread, no network, a cache folder of their own, a list of fonts made only once."""
        fixed = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "FINETUNE_CACHE": str(self.cache)}
        fixed["MPLCONFIGDIR"] = str(self.folder.with_name(f"{self.folder.name}-fonts"))
        return {**os.environ, **fixed, **self.env}

    def start(self, *arguments: object, before: Sequence[object] = ()) -> Process:
        """The command in a session of its own, behind `before` (prlimit, strace, …); what it says goes to a file."""
        if self.warm or self.all_warm:
            return Warm(list(map(str, arguments)), self.folder, self.environment(), list(map(str, before)))
        with open(self.folder / SAID, "wb") as said:
            return subprocess.Popen(
                [*map(str, before), FINETUNE, *map(str, arguments)],
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def signal(self, process: Process, signum: int) -> None:
        """Send a signal to a command, which may have been started behind strace."""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(process.pid if isinstance(process, Warm) else int(children[0]), signum)

    def said(self) -> str:
        """By the command started last."""
        return (self.folder / SAID).read_text("utf-8", "backslashreplace")

    def end(self, process: Process, timeout: float = 300) -> Done:
        """Wait for a command; none of its session may be left."""
        rc = process.wait(timeout)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"a process of session {process.pid} was left behind")
        return Done(rc if rc >= 0 else 128 - rc, self.said())

    def do(self, *arguments: object, before: Sequence[object] = (), timeout: float = 300) -> Done:
        """Run a command to its end; a traceback is allowed only with exit code 1."""
        done = self.end(self.start(*arguments, before=before), timeout)
        assert done.rc != 1, done.said
        assert "Traceback" not in done.said, done.said
        return done

    def wait_for(self, what: str, process: Process, timeout: float = 120) -> bool:
        """Wait until the command has said `what`, or a file of that name (`*` in it) is there; False if it ended."""
        until = time.monotonic() + timeout
        while time.monotonic() < until and process.poll() is None:
            if what in self.said() or any(self.folder.glob(what)):
                return True
            time.sleep(0.005)
        return False

    def sha256(self, out: str = "o") -> str:
        """The hash of a run's final weights."""
        return str(json.loads((self.folder / out / "run.json").read_text())["weights_sha256"])

    def epochs(self, out: str = "o") -> list[str]:
        """The epochs that `history.csv` has, in its order."""
        lines = (self.folder / out / "history.csv").read_text().splitlines()[1:]
        return [line.split(",")[0] for line in lines]

    def require_same(self, reference: str, out: str = "o") -> None:
        """The run in `out` is finished, has the weights of `reference`, each epoch once, and is whole."""
        record = json.loads((self.folder / out / "run.json").read_text())
        assert record["status"] == "finished", record["status"]
        assert self.sha256(out) == reference, f"{self.sha256(out)} is not {reference}"
        assert self.epochs(out) == [str(n) for n in range(len(self.epochs(out)))]
        require_whole(self.folder / out)
        left = [path for path in (self.folder / out).rglob(".*") if path.name != ".lock"]
        assert not left, f"left behind: {left}"

    def resume_to(self, reference: str, out: str = "o", *flags: str) -> Done:
        """Resume (or start, where nothing had been published) and require the reference weights."""
        done = self.do("resume", out, *flags)
        if done.rc == 2 and "no run there" in done.said:
            done = self.do("run", "job.yaml", "--out", out)
        assert done.rc == 0, done.said
        self.require_same(reference, out)
        return done

    def fresh(self, out: str = "o") -> None:
        """Remove a run and the cache."""
        shutil.rmtree(self.folder / out, ignore_errors=True)
        shutil.rmtree(self.cache, ignore_errors=True)


def whole(path: Path) -> bool:
    """Whether a checkpoint has the hash that its manifest names: an independent look, without any of our code."""
    manifest = json.loads(path.with_suffix(".json").read_text())
    named = [manifest["sha256"], manifest.get("previous", {}).get("sha256")]
    return hashlib.sha256(path.read_bytes()).hexdigest() in named


def require_whole(out: Path) -> int:
    """Every published checkpoint is whole; returns how many there are besides the best."""
    paths = sorted((out / "checkpoints").glob("*.pth"))
    broken = [path.name for path in paths if not whole(path)]
    assert not broken, f"not whole: {broken}"
    return sum(path.name != "best.pth" for path in paths)


# --- what strace saw -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A system call: its name, which of its name it was in the process (from 1), and the paths in its line."""

    name: str
    number: int
    paths: tuple[str, ...]
    failed: bool


def read_trace(path: Path) -> list[Call]:
    """The calls of the first process in an strace output made with `-f -y`."""
    found: list[Call] = []
    counts: dict[str, int] = {}
    main: str | None = None
    for line in path.read_text("utf-8", "backslashreplace").splitlines():
        match = re.match(r"(\d+) +(\w+)\((.*)", line)
        if match is None or (main := main or match[1]) != match[1]:
            continue
        counts[match[2]] = counts.get(match[2], 0) + 1
        arguments = match[3].split('"')[0] if match[2].startswith(("write", "pwrite")) else match[3]
        paths = re.findall(r'<(/[^>]*)>|"(/[^"]*)"', arguments)
        found.append(Call(match[2], counts[match[2]], tuple(a or b for a, b in paths), " = -1 " in line))
    return found


def order_offences(calls: Sequence[Call]) -> Iterator[str]:
    """Renames of a file not flushed since it was last written, and renames whose folder is not flushed after."""
    dirty: set[str] = set()
    unsettled: dict[str, str] = {}
    for call in calls:
        if call.name.startswith(("write", "pwrite")) and call.paths:
            dirty.add(call.paths[0])
        elif call.name == "fsync" and call.paths:
            dirty.discard(call.paths[0])
            unsettled = {name: folder for name, folder in unsettled.items() if folder != call.paths[0]}
        elif call.name.startswith("rename") and len(call.paths) >= 2:
            if call.paths[0] in dirty:
                yield f"{call.paths[-1]} is published without an fsync"
            if unsettled:
                yield f"{call.paths[-1]} is published before the name {sorted(unsettled)[0]} lasts"
            unsettled[call.paths[-1]] = str(Path(call.paths[-1]).parent)
    yield from (f"the name {name} is never made to last" for name in unsettled)


def own(calls: Sequence[Call], *folders: Path) -> list[Call]:
    """The calls on paths below these folders."""
    roots = tuple(str(folder) for folder in folders)
    return [call for call in calls if any(path.startswith(roots) for path in call.paths)]


def needs(*tools: str) -> str | None:
    """Why a row cannot be run here, or None."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} is not installed"
    probe = ["strace", "-o", "/dev/null", "true"]
    if "strace" in tools and subprocess.run(probe, stderr=subprocess.DEVNULL).returncode:
        return "strace is not allowed to trace here"
    return None


def record(path: Path) -> dict[str, Any]:
    """The JSON of a run."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def reference_of(job: Job) -> str:
    """The weights of an undisturbed run."""
    assert job.do("run", "job.yaml", "--out", "reference").rc == 0
    return job.sha256("reference")


def script_in_namespace(job: Job, script: str) -> Done:
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
    return Done(77 if "unshare:" in said else done.returncode, said)

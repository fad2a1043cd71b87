"""The command line with its processor time and its largest memory, perhaps under a limit or a tracer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FINETUNE = str(Path(sys.executable).with_name("finetune"))


@dataclass(frozen=True)
class Measured:
    """What a command left behind, the seconds of processor time it took, and the most MiB it had in memory."""

    rc: int
    out: str
    err: str
    seconds: float
    megabytes: float


def measured(*arguments: str | Path, cwd: Path, before: Sequence[str] = (), **env: str) -> Measured:
    """Run `finetune ARGUMENTS`, `before` being put before it: `prlimit`, `strace`, `unshare`, ...

    With `before`, time and memory are those of what stands there and of all that it started.
    """
    out, err = cwd / ".out", cwd / ".err"
    with open(out, "wb") as stdout, open(err, "wb") as stderr:
        command = [*before, FINETUNE, *map(str, arguments)]
        process = subprocess.Popen(command, cwd=cwd, env={**os.environ, **env}, stdout=stdout, stderr=stderr)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    said, told = (path.read_bytes().decode("utf-8") for path in (out, err))
    return Measured(process.returncode, said, told, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)

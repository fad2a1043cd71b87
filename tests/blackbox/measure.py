"""The command line with its processor time and its largest memory, perhaps under a limit or a tracer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
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

    With `before`, time is that of what stands there and of all that it started, and memory that of the first process.
    The kernel's own `ru_maxrss` would not do: a child begins with that of the process that started it.
    """
    out, err = cwd / ".out", cwd / ".err"
    with open(out, "wb") as stdout, open(err, "wb") as stderr:
        command = [*before, FINETUNE, *map(str, arguments)]
        process = subprocess.Popen(command, cwd=cwd, env={**os.environ, **env}, stdout=stdout, stderr=stderr)
        peak = 0.0
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            peak = max(peak, _peak(process.pid))
            time.sleep(0.01)
        _, status, usage = ended
        process.returncode = os.waitstatus_to_exitcode(status)
    said, told = (path.read_bytes().decode("utf-8") for path in (out, err))
    return Measured(process.returncode, said, told, usage.ru_utime + usage.ru_stime, peak)


def _peak(pid: int) -> float:
    """The most MiB that a process has had in memory so far."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)

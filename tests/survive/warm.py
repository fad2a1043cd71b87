"""The command line in a fork of a process that has torch already: it starts at once, else it is the same."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

SAID = "said.txt"
"""Where a job's folder has what the command started last said."""


class Warm:
    """`finetune ARGUMENTS` by its own entry point, in a session of its own; it is used like a `subprocess.Popen`.

    Args:
        arguments: of the command.
        folder: where it works, and what it says goes to `said.txt`.
        env: laid over this process's environment.
        before: nothing, or strace with its flags, which is attached before the command begins.
    """

    def __init__(
        self, arguments: Sequence[str], folder: Path, env: Mapping[str, str], before: Sequence[str] = ()
    ) -> None:
        assert not before or before[0] == "strace", f"{before[0]} cannot be put before a process that is there already"
        preload()
        (folder / SAID).write_bytes(b"")
        self.returncode: int | None = None
        self.tracer: subprocess.Popen[str] | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _be_the_command(arguments, folder, env, stopped=bool(before))
        if before:
            self._attach(before)

    def _attach(self, strace: Sequence[str]) -> None:
        os.waitpid(self.pid, os.WUNTRACED)
        self.tracer = subprocess.Popen([*strace, "-p", str(self.pid)], stderr=subprocess.PIPE, text=True)
        assert self.tracer.stderr is not None
        line = self.tracer.stderr.readline()
        assert "attached" in line, line
        os.kill(self.pid, signal.SIGCONT)

    def poll(self) -> int | None:
        """The exit code, or the number of the signal below zero; None while it is at work."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
                if self.tracer is not None:
                    self.tracer.communicate(timeout=60)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait for its end, but not longer than so many seconds."""
        until = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("finetune", timeout)
            time.sleep(0.002)
        return code

    def send_signal(self, signum: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def preload() -> None:
    """Import what every command needs."""
    import finetune.cli.main
    import finetune.cli.resume
    import finetune.cli.run
    import finetune.cli.verify
    import finetune.deliver.verify
    import finetune.story.run  # noqa: F401  # loaded before the fork, so that no child loads it


def _be_the_command(arguments: Sequence[str], folder: Path, env: Mapping[str, str], stopped: bool) -> None:
    from finetune.cli.main import main

    code = 1
    try:
        os.setsid()
        said = os.open(folder / SAID, os.O_WRONLY | os.O_APPEND)
        for descriptor in (1, 2):
            os.dup2(said, descriptor)
        os.environ.update(env)
        os.chdir(folder)
        if stopped:
            os.kill(os.getpid(), signal.SIGSTOP)
        main(list(arguments))
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)

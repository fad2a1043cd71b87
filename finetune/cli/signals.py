"""SIGINT and SIGTERM set a flag, which the loops read; a second one ends the process at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import click


class StopFlag:
    """The number of the signal that asked to stop, once one has."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def __call__(self) -> int | None:
        """For `Reporter.stop`."""
        return self.signum


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Inside, the first SIGINT or SIGTERM only sets the flag; the second has its default effect."""
    flag = StopFlag()

    def handle(signum: int, frame: FrameType | None) -> None:
        flag.signum = signum
        # whoever asks twice means it: the second signal ends the process, whatever it is doing
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        name = signal.Signals(signum).name
        with suppress(BrokenPipeError):  # in `finetune run 2>&1 | tee log`, Ctrl-C ends tee as well
            click.echo(f"\n{name}: stopping after this step, then saving; press Ctrl-C again to quit now", err=True)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Progress for people: a bar on a terminal, a plain line an epoch in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from finetune.cli.process import STARTED
from finetune.cli.signals import StopFlag

if TYPE_CHECKING:
    from finetune.runs.reporter import Reporter

LINE_SECONDS = 30.0
"""Between two lines of a count in a pipe."""


@contextmanager
def reporting(stop: StopFlag) -> Iterator[Reporter]:
    """A reporter for the length of a command."""
    from finetune.runs.reporter import Reporter

    if not sys.stderr.isatty():
        yield Reporter(stop=stop, started=STARTED)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from finetune.runs.time_left import TimeLeft

    console, left = Console(stderr=True, highlight=False), TimeLeft()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TextColumn("{task.fields[info]}"), console=console, transient=True) as bar:
        task = bar.add_task("", total=None, info="", visible=False)

        def step(epoch: int, done: int, steps: int, loss: float, speed: float) -> None:
            info = f"loss {loss:.4f}  {speed:.0f} images/s  {left.text()}"
            bar.update(task, description=f"epoch {epoch}", completed=done, total=steps, info=info, visible=True)

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total, info=left.text(), visible=done < total)

        def say(text: str) -> None:
            bar.update(task, visible=False)
            console.print(escape(text), soft_wrap=True)

        yield Reporter(say=say, step=step, progress=progress, stop=stop, started=STARTED, left=left)


@contextmanager
def counting(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """`tick(done)` for a long count: a bar with speed and time left on a terminal, a line now and then in a pipe.

    Args:
        what: is counted, in the plural.
        total: how many there will be; None where that is not known.
    """
    begin = time.monotonic()

    def speed(done: int) -> float:
        return done / max(1e-9, time.monotonic() - begin)

    if not sys.stderr.isatty():
        yield _lines(what, total, speed)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[info]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total, info="")
        yield lambda done: bar.update(task, completed=done, info=f"{speed(done):.0f} {what}/s")


def _lines(what: str, total: int | None, speed: Callable[[int], float]) -> Callable[[int], None]:
    """Says every `LINE_SECONDS` where the count is."""
    from finetune.runs.reporter import say_on_stderr

    said = time.monotonic()

    def tick(done: int) -> None:
        nonlocal said
        if time.monotonic() - said >= LINE_SECONDS:
            said = time.monotonic()
            left = f", {(total - done) / speed(done) / 60:.0f} min left" if total is not None else ""
            of = f" of {total:,}" if total is not None else ""
            say_on_stderr(f"{done:,}{of} {what}, {speed(done):.0f} {what}/s{left}")

    return tick

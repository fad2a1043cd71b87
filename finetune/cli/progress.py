"""What a person sees while they wait: a bar on a terminal, a plain line an epoch in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from finetune.cli.signals import StopFlag

if TYPE_CHECKING:
    from finetune.runs.reporter import Reporter


@contextmanager
def reporting(stop: StopFlag) -> Iterator[Reporter]:
    """A reporter for the length of a command."""
    from finetune.runs.reporter import Reporter

    if not sys.stderr.isatty():
        yield Reporter(stop=stop)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[info]}"), console=console, transient=True) as bar:
        task = bar.add_task("", total=None, info="", visible=False)

        def step(epoch: int, done: int, steps: int, loss: float, speed: float) -> None:
            info = f"loss {loss:.4f}  {speed:.0f} images/s"
            bar.update(task, description=f"epoch {epoch}", completed=done, total=steps, info=info, visible=True)

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total, info="", visible=done < total)

        def say(text: str) -> None:
            bar.update(task, visible=False)
            console.print(escape(text), soft_wrap=True)

        yield Reporter(say=say, step=step, progress=progress, stop=stop)

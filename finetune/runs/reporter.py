"""Takes a run's messages and progress, and says when to stop."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune.errors import Stopped
from finetune.files import visible
from finetune.runs.time_left import TimeLeft


def say_on_stderr(text: str) -> None:
    """Print a line for people, apart from results; where nobody reads any more, the work goes on all the same."""
    with contextlib.suppress(BrokenPipeError):
        print(text, file=sys.stderr, flush=True)


def no_step(epoch: int, step: int, steps: int, loss: float, speed: float) -> None:
    """Show nothing of single steps."""


QUIET_SECONDS, LINE_SECONDS = 2.0, 10.0
"""A long work without a bar is named after the first, and its count said again after the second."""


class PlainCount:
    """The progress of long work as plain lines: `computing frozen features: 1,200 of 8,000, about 40 s to the end`.

    Attributes:
        left: of the whole run; where nothing is known of what comes, the present work alone is extrapolated.
    """

    def __init__(self) -> None:
        self.left = TimeLeft()
        self._what = ""
        self._began = self._said = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say how far `what` is, now and then; work that cannot be counted (0 of 1) is named at once."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._began, self._said = what, now, now - LINE_SECONDS + QUIET_SECONDS
        if (done, total) == (0, 1):
            say_on_stderr(f"{what} …")
        elif done < total and now - self._said >= LINE_SECONDS:
            self._said = now
            own = f"about {(now - self._began) / done * (total - done):.0f} s left" if done else ""
            say_on_stderr(", ".join(filter(None, [f"{what}: {done:,} of {total:,}", self.left.text() or own])))


def no_progress(what: str, done: int, total: int) -> None:
    """Show nothing of long work."""


@dataclass
class Reporter:
    """Takes messages and progress; by default a plain line an epoch on stderr.

    Attributes:
        say: takes a message, perhaps of several lines.
        step: told after each step: epoch, step of the epoch, steps of the epoch, loss so far, images a second.
        progress: told of long reading: what, done, total.
        started: when the work began, by `time.perf_counter`; the command line says when its process did.
        stop: gives the number of the signal that asked to stop, or None.
        left: how much longer the whole run takes; whoever shows progress may ask it.
    """

    say: Callable[[str], None] = say_on_stderr
    step: Callable[[int, int, int, float, float], None] = no_step
    progress: Callable[[str, int, int], None] = field(default_factory=PlainCount)
    stop: Callable[[], int | None] = lambda: None
    started: float = field(default_factory=time.perf_counter)
    left: TimeLeft = field(default_factory=TimeLeft)

    def __post_init__(self) -> None:
        if isinstance(self.progress, PlainCount):
            self.progress.left = self.left

    def hooks(self) -> dict[str, Any]:
        """The reporter's functions as keyword arguments of a trainer."""
        return {"say": self.say, "tick": self._stepped, "progress": self.working, "stop": self.stop}

    def working(self, what: str, done: int, total: int) -> None:
        """Show how far a stage is, and learn from its pace how long the run takes."""
        self.left.at(what, done / max(1, total))
        self.progress(what, done, total)

    def _stepped(self, epoch: int, step: int, steps: int, loss: float, speed: float) -> None:
        self.left.in_training(epoch, step, steps)
        self.step(epoch, step, steps, loss, speed)

    def reading(self, what: str, doing: str) -> Callable[[int, int], None]:
        """A `tick(done, total)` for a scan or an evaluation, which also stops it when asked to."""

        def tick(done: int, total: int) -> None:
            self.working(what, done, total)
            if (signum := self.stop()) is not None:
                raise Stopped(signum, f"stopped while {doing}")

        return tick

    def evaluating(self, total: int) -> Callable[[int], None]:
        """A `tick(done)` for the evaluation of a run on so many images."""
        tick = self.reading("evaluating", "evaluating; the network is trained")
        return lambda done: tick(done, total)

    def epoch(self, record: Mapping[str, Any], epochs: int) -> None:
        """Say an epoch's record on one line."""
        self.left.in_training(record["epoch"] + 1, 0, 1)
        more = f"  {self.left.text()}" if record["epoch"] + 1 < epochs else ""
        self.say(
            f"epoch {record['epoch'] + 1}/{epochs}  phase {record['phase']}  lr {record['lr']:.2g}  "
            f"train loss {record['train_loss']:.4f}  val loss {record['val_loss']:.4f}  "
            f"val accuracy {record['val_accuracy']:.4f}  val macro F1 {record['val_macro_f1']:.4f}  "
            f"{record['images_per_second']:.0f} images/s{more}".rstrip()
        )

    def best(self, best: Mapping[str, Any] | None, select: str) -> None:
        """Say which epoch's weights are the result: its "epoch" and "value", by the measure `select`."""
        if best is not None:
            measure = select.removeprefix("val_").replace("_", " ").replace("f1", "F1")
            self.say(f"Kept epoch {best['epoch'] + 1} (best validation {measure}: {best['value']:.4f})")

    def notes(self, lines: list[str]) -> None:
        """Say each line as a note."""
        for line in lines:
            self.say(f"note: {visible(line)}")

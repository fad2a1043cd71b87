"""The run folder: made and found, locked, and its status kept, whatever ends the run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from finetune.data.output_paths import home_of_runs, require_outside
from finetune.errors import (
    ArtefactError,
    FinetuneError,
    ResourceError,
    Stopped,
    UsageError,
    from_os_error,
    option,
    resuming,
)
from finetune.files import TEMPORARY, make_folder, read_json, write_csv, write_json, write_text
from finetune.runs.history import write_history
from finetune.runs.names import RUN_JSON, RunNames
from finetune.runs.record import RunRecord


class RunFolder:
    """The files of one run.

    Args:
        path: of the folder; `create` makes a new one, `open` takes an existing one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = RunNames(path)
        self.record = RunRecord()
        self._lock: IO[str] | None = None
        self._fresh = False
        self._made_above: list[Path] = []

    @classmethod
    def create(cls, out: Path | None, name: str, images: str | None = None) -> RunFolder:
        """A new, locked folder: `out`, which must be absent or empty, or the next of `runs/NAME/001`, `002`, ….

        Args:
            out: absent or empty; None for the next number.
            name: of the runs.
            images: the data folder, in which no run may lie; `runs/` is made beside it where it is the working folder.

        Raises:
            UsageError: `out` is there and not empty, or in the data folder.
            ResourceError: it cannot be made or written to, or another process is at work there.
        """
        data = None if images is None else Path(images)
        try:
            above: list[Path] = []
            if out is None:
                home = (home_of_runs(data) / name).resolve()
                above = [place for place in (home, home.parent) if not place.exists()]
                out = next_numbered(home)
            require_outside(out, data)
            if out.exists() and (not out.is_dir() or not all(map(_left_over, out.iterdir()))):
                if RunNames(out).lock.is_file():
                    cls(out).lock(hold=False)  # says which process is at work, where one is; that is the better error
                raise UsageError(
                    f"{out} is not empty; a run is never overwritten",
                    f"give another {option('out', 'DIR')}, or go on with it: {resuming(out)}",
                )
            make_folder(out)
            folder = cls(out.resolve())
            folder._fresh, folder._made_above = True, above
            folder.record.id = uuid.uuid4().hex  # so that its checkpoints are known from those of other runs
            folder.lock()
        except OSError as error:
            raise from_os_error(error, out, "make this run folder") from error
        return folder

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """An existing run.

        Raises:
            UsageError: there is none.
            ArtefactError: its run.json is not readable.
        """
        path = Path(path)
        if not RunNames(path).run_json.is_file():
            raise UsageError(f"{path}: no run there (no {RUN_JSON})", "name a run folder such as runs/vehicles/001")
        folder = cls(path.resolve())
        values = read_json(folder.names.run_json)
        if not isinstance(values, dict) or not isinstance(values.get("recipe"), dict):
            raise ArtefactError(f"{folder.names.run_json}: it holds no recipe", "start a new run")
        folder.record = RunRecord.of(values)
        return folder

    def lock(self, *, hold: bool = True) -> None:
        """Keep other processes out until this one ends or calls `unlock`; without `hold`, only look whether one is in.

        Raises:
            ResourceError: another process is at work here; its number is named.
        """
        try:
            file = open(self.names.lock, "a+", encoding="utf-8")  # noqa: SIM115  # held open as long as the lock
        except OSError as error:
            raise from_os_error(error, self.path, "write into this run folder") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise ResourceError(
                f"{self.path}: process {holder} is at work on this run", f"wait for it, or stop it: kill {holder}"
            ) from error
        except OSError as error:
            file.close()
            raise from_os_error(error, self.path, "lock this run folder") from error
        if not hold:
            file.close()
            return
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._lock = file

    def unlock(self) -> None:
        """Let other processes in again."""
        if self._lock is not None:
            self._lock.close()  # the file stays: removing it would let two others lock two different ones
            self._lock = None

    def require_own(self, state: Mapping[str, Any] | None, path: str | Path | None) -> None:
        """Refuse to go on from what another run has saved: its classes, network and plan may be others.

        Args:
            state: a checkpoint, if there is one.
            path: where it was asked for; None for one in the run's own folder.

        Raises:
            ArtefactError: it is not this run's.
        """
        if state is not None and state.get("run") != self.record.id:
            raise ArtefactError(
                f"{path or self.names.checkpoints}: a checkpoint of another run",
                f"name one in {self.names.checkpoints}; "
                "to start from what another run has learned, use it as model.backbone",
            )

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Inside, the run is `running`; it ends as finished, stopped or failed, and the lock is released.

        `run.json` is published with the recipe, by `write_recipe`. A new run that is refused before it has learned
        anything leaves nothing behind: corrected, the same command can be given again.
        """
        self.record.status = "running"
        self.record.error = self.record.finished = None  # of the stop before
        try:
            self._tidy()
            yield
            self.update(status="finished", finished=_now())
        except Stopped as error:
            error.remedy = f"Continue with: {resuming(self.path)}"
            self._end(status="stopped", error=error.problems)
            raise
        except (Exception, KeyboardInterrupt) as error:
            problems = error.problems if isinstance(error, FinetuneError) else [f"{type(error).__name__}: {error}"]
            # a mistake found before the first step: what is left would only stand in the way of the corrected command
            if self._fresh and isinstance(error, FinetuneError) and not self.names.checkpoints.exists():
                self._clear()
            else:
                self._end(status="failed", error=problems)
            raise
        finally:
            self.unlock()

    def _tidy(self) -> None:
        """Remove what a killed process left half-written."""
        for path in self.path.rglob(f".*{TEMPORARY}"):
            with contextlib.suppress(OSError):
                path.unlink()

    def _clear(self) -> None:
        # while there is a run.json, a crash in here leaves a run that can be resumed
        for path in sorted(
            self.path.iterdir(), key=lambda path: (path == self.names.lock, path == self.names.run_json)
        ):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()
            for folder in self._made_above:  # one that is not empty stays
                folder.rmdir()

    def _end(self, **values: Any) -> None:
        # the disk may be what failed: the first error is the one to tell
        with contextlib.suppress(FinetuneError):
            self.update(finished=_now(), **values)

    def update(self, **values: Any) -> None:
        """Publish `run.json` with these values, each an attribute of `RunRecord`."""
        self.record = replace(self.record, **values)
        write_json(self.names.run_json, self.record.as_dict())

    def warn(self, *messages: str) -> None:
        """Add to the run's warnings, each once."""
        for message in messages:
            if message not in self.record.warnings:
                self.record.warnings.append(message)

    def write_history(self, history: list[dict[str, Any]]) -> None:
        """Publish `history.csv`, one row an epoch."""
        write_history(self.names.history_csv, history)

    def write_plan(self, columns: list[str], rows: list[list[object]]) -> None:
        """Publish `plan.csv`; from here on the run is one that has begun, and stays."""
        self._fresh = False
        write_csv(self.names.plan_csv, columns, rows)

    def write_recipe(self, text: str, values: Mapping[str, Any]) -> None:
        """Publish the resolved recipe, and keep its values to tell later what was changed in it.

        `run.json` goes first and holds the values before, too: whichever recipe a crash leaves behind is known.
        """
        self.update(recipe=dict(values), recipe_before=self.record.recipe or None)
        write_text(self.names.recipe, text)
        self.record.recipe_before = None


def _left_over(path: Path) -> bool:
    """Whether it is what a run leaves that was killed before it had published anything."""
    return path == RunNames(path.parent).lock or (path.name.startswith(".") and path.name.endswith(TEMPORARY))


def next_numbered(base: Path) -> Path:
    """Make the next of the folders 001, 002, … below `base`."""
    taken = [int(path.name) for path in base.glob("[0-9]*") if path.name.isdigit()] if base.is_dir() else []
    number = max(taken, default=0)
    while True:
        number += 1
        path = base / f"{number:03d}"
        with contextlib.suppress(FileExistsError):  # another process may take the number between looking and making
            path.mkdir(parents=True)
            return path


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")

"""Checks that the files of a run are complete and undamaged."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from finetune.errors import FinetuneError, UsageError
from finetune.files import read_json, visible
from finetune.model.bundle import read_description, read_state
from finetune.model.bundle_files import DESCRIPTION
from finetune.model.hub import local_path
from finetune.runs.checkpoints import Checkpoints
from finetune.runs.names import RunNames

Finding = tuple[Path, str | None]
"""A published artefact, and what is wrong with it or None."""


def verify(path: str | os.PathLike[str]) -> list[Finding]:
    """Look at every published artefact of a run folder, or at a model bundle.

    Temporary files of a killed process are no artefacts; a run that has published nothing has nothing broken.

    Raises:
        UsageError: there is no such folder.
    """
    path = local_path(Path(path))
    if not path.is_dir():
        raise UsageError(f"{path}: no such run", "name a run folder such as runs/vehicles/001")
    return list(_artefacts(path))


def _artefacts(path: Path) -> Iterator[Finding]:
    run, report = RunNames(path), RunNames(path).report
    checkpoints = Checkpoints(run.checkpoints)
    names = [*checkpoints.listed(), *([checkpoints.best] if checkpoints.best.exists() else [])]
    for checkpoint in names:
        yield checkpoint, checkpoints.reason_broken(checkpoint) or _reason(checkpoints.load, checkpoint)
    for bundle in (path, run.model):
        if (bundle / DESCRIPTION).exists():
            yield bundle, _reason(_read_bundle, bundle)
    for json in [run.run_json, report.metrics_json]:
        if json.exists():
            yield json, _reason(read_json, json)
    for table in [*sorted(path.glob("*.csv")), *sorted(report.folder.glob("*.csv"))]:
        yield table, _reason(_read_csv, table)
    if run.run_json.exists() and _reason(read_json, run.run_json) is None:
        yield from _missing(run, read_json(run.run_json).get("status") == "finished")


def _missing(run: RunNames, finished: bool) -> Iterator[Finding]:
    """Files that a finished run must have and this one lacks."""
    tables = (run.recipe, run.data_csv, run.plan_csv, run.history_csv)
    for file in (*tables, run.model / DESCRIPTION, run.report.metrics_json) if finished else ():
        if not file.exists():
            yield file, "missing, although the run is finished"


def _read_csv(file: Path) -> None:
    with open(file, encoding="utf-8", newline="") as stream:
        rows = csv.reader(stream)
        width = len(next(rows))
        for row in rows:
            if len(row) != width:
                raise UsageError(f"line {rows.line_num} has {len(row)} cells, the heading {width}")


def _read_bundle(folder: Path) -> None:
    read_state(read_description(folder))


def _reason(look: Callable[[Path], object], path: Path) -> str | None:
    """The problem that `look` finds with `path`; None if there is none."""
    try:
        look(path)
    except FinetuneError as error:
        return visible("; ".join(error.problems))
    except (OSError, ValueError, StopIteration, csv.Error) as error:
        return visible(f"not readable: {error}")
    return None

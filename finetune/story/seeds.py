"""Runs one recipe with several seeds, to tell how much of a figure is the luck of its seed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.data.output_paths import home_of_runs
from finetune.deliver.compare import summarise_seeds
from finetune.errors import Stopped, option
from finetune.files import read_json
from finetune.recipe.schema import Recipe
from finetune.runs.folder import next_numbered
from finetune.runs.names import RunNames
from finetune.runs.reporter import Reporter
from finetune.story.recipes import prepare
from finetune.story.result import Run
from finetune.story.resume import resume
from finetune.story.run import run


def run_seeds(
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str],
    seeds: int,
    *,
    out: str | os.PathLike[str] | None = None,
    freeze: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Run a recipe with so many seeds, from its own on; the split of the images stays the same.

    Args:
        recipe: as `run` takes it.
        seeds: how many, two at least.
        out: a folder for the runs, each in `seed-K`; those that are there go on, or are taken as they are. By default
            the next of runs/NAME/001, 002, ….
        freeze: layer patterns that never learn.
        reporter: takes messages and progress.

    Returns:
        As `deliver.compare.summarise_seeds` gives it.

    Raises:
        FinetuneError: as of `run`; the runs before are kept.
    """
    recipe, reporter = prepare(recipe), reporter or Reporter()
    data = None if recipe.data.folder is None else Path(recipe.data.folder)
    home = next_numbered(home_of_runs(data) / (recipe.name or "run")) if out is None else Path(out)
    done = []
    for number, seed in enumerate(range(recipe.seed, recipe.seed + seeds)):
        folder = home.expanduser() / f"seed-{seed}"
        reporter.say(f"\nseed {seed}, {number + 1} of {seeds}: {folder}")
        try:
            done.append(_run_or_resume(recipe.model_copy(update={"seed": seed}), folder, freeze, reporter))
        except Stopped as error:
            error.remedy = f"go on with the same command and {option('out', str(home))}"
            raise
    return summarise_seeds([run_of_seed.path for run_of_seed in done])


def _run_or_resume(recipe: Recipe, folder: Path, freeze: Sequence[str], reporter: Reporter) -> Run:
    """The run of one seed: a new one, or the one in `folder`, resumed unless it has finished."""
    if not RunNames(folder).run_json.is_file():
        return run(recipe, out=folder, freeze=freeze, reporter=reporter)
    if read_json(RunNames(folder).run_json).get("status") == "finished":
        reporter.say("finished already: taken as it is")
        return Run(folder)
    return resume(folder, reporter=reporter)

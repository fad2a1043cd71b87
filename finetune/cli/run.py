"""`finetune run`: the whole job that a recipe describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from finetune.cli.options import (
    json_flag,
    print_json,
    print_run,
    processes,
    read_recipe,
    recipe_options,
    say_first,
    start_processes,
)
from finetune.cli.progress import reporting
from finetune.cli.signals import stop_on_signals
from finetune.distributed.launch import folder_to_resume
from finetune.errors import UsageError
from finetune.files import visible


@click.command()
@recipe_options
@click.option("--out", type=click.Path(path_type=Path), help="Run folder, absent or empty [runs/NAME/001, 002, ...].")
@click.option("--dry-run", is_flag=True, help="Read the images, show the plan; train and write nothing.")
@processes
@click.option("--seeds", type=click.IntRange(2), metavar="N", help="Run N seeds: mean, spread and interval.")
@json_flag
def run(
    recipe: Path,
    out: Path | None,
    dry_run: bool,
    nproc: int | None,
    seeds: int | None,
    as_json: bool,
    freeze: tuple[str, ...],
    **flags: Any,
) -> None:
    """Do the whole job that RECIPE describes, or for a FOLDER of images: read, freeze, train, evaluate, report.

    A folder needs no recipe: the best network available gets a head for your classes. The complete
    recipe is in the run folder.

    Ctrl-C saves and prints the command that continues.
    """
    say_first(f"finetune run {visible(str(recipe))}")
    resolved = read_recipe(recipe, **flags)
    if nproc is not None and seeds is not None:
        raise UsageError("--seeds: its runs go one after the other, not with --nproc", "leave one of both out")
    if nproc is not None and not dry_run:
        return start_processes(nproc)
    with stop_on_signals() as stop:
        if dry_run:
            from finetune.cli.plan import show_plan

            drawn = resolved.data.sample is not None and not Path(resolved.data.folder or "").exists()
            show_plan(resolved, freeze, as_json, stop, scan=not drawn)
            return
        if seeds is not None:
            from finetune.report.comparison import seeds_text
            from finetune.story.seeds import run_seeds

            with reporting(stop) as reporter:
                summary = run_seeds(resolved, seeds, out=out, freeze=freeze, reporter=reporter)
            print_json(summary) if as_json else click.echo(seeds_text(summary))
            return
        from finetune.runs.names import RunNames
        from finetune.story.resume import resume
        from finetune.story.run import run as do

        with reporting(stop) as reporter:
            begun = folder_to_resume(out)  # where a process has died, and all were started again
            if begun is not None and RunNames(begun).run_json.is_file():
                done = resume(begun, reporter=reporter)
            else:
                done = do(resolved, out=out, freeze=freeze, reporter=reporter)
        print_run(done, as_json)

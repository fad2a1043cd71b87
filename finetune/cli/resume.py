"""`finetune resume`: go on with a run where it stopped."""

from __future__ import annotations

from pathlib import Path

import click

from finetune.cli.options import json_flag, print_run, processes, run_argument, say_first, start_processes
from finetune.cli.progress import reporting
from finetune.cli.signals import stop_on_signals
from finetune.files import visible


@click.command()
@run_argument
@click.option("--from", "checkpoint", type=click.Path(path_type=Path), help="Resume from this checkpoint.")
@click.option(
    "--data", type=click.Path(path_type=Path), help="New place of the images, if they moved; they must be the same."
)
@click.option("--accept-changes", is_flag=True, help="Resume although the recipe or the images have changed.")
@processes
@json_flag
def resume(
    run: Path, checkpoint: Path | None, data: Path | None, accept_changes: bool, nproc: int | None, as_json: bool
) -> None:
    """Continue RUN where it stopped, to the same bits as if it had never stopped."""
    if nproc is not None:
        return start_processes(nproc)
    with stop_on_signals() as stop:
        say_first(f"resuming {visible(str(run))}")
        from finetune.story.resume import resume as do

        with reporting(stop) as reporter:
            done = do(run, checkpoint=checkpoint, data=data, accept_changes=accept_changes, reporter=reporter)
        print_run(done, as_json)

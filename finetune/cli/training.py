"""`finetune run` and `finetune resume`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from finetune.cli.options import json_flag, print_json, read_recipe, recipe_options, run_argument
from finetune.cli.progress import watching
from finetune.cli.signals import stop_on_signals


@click.command()
@recipe_options
@click.option("--out", type=click.Path(path_type=Path), help="Run folder, absent or empty [runs/NAME/001, 002, ...].")
@click.option("--dry-run", is_flag=True, help="Read the images, show the plan; train and write nothing.")
@json_flag
def run(recipe: Path, out: Path | None, dry_run: bool, as_json: bool, freeze: tuple[str, ...], **flags: Any) -> None:
    """Do the whole job that RECIPE describes: read, freeze, train, judge, report.

    Ctrl-C saves and says how to go on.
    """
    with stop_on_signals() as stop:
        resolved = read_recipe(recipe, **flags)
        if dry_run:
            from finetune.cli.before import show_plan

            show_plan(resolved, freeze, as_json, stop, scan=True)
            return
        from finetune.run import run as do

        with watching(stop) as watch:
            folder = do(resolved, out=out, freeze=freeze, watch=watch)
        _tell(folder, as_json)


@click.command()
@run_argument
@click.option("--from", "checkpoint", type=click.Path(path_type=Path), help="Go on from this checkpoint.")
@click.option("--data", type=click.Path(path_type=Path), help="Where the images are now; they must be the same.")
@click.option("--accept-changes", is_flag=True, help="Go on although the recipe or the images have changed.")
@json_flag
def resume(run: Path, checkpoint: Path | None, data: Path | None, accept_changes: bool, as_json: bool) -> None:
    """Go on with RUN where it stopped, to the same bits as if it had never stopped."""
    with stop_on_signals() as stop:
        from finetune.run import resume as do

        with watching(stop) as watch:
            folder = do(run, checkpoint=checkpoint, data=data, accept_changes=accept_changes, watch=watch)
        _tell(folder, as_json)


def _tell(folder: Path, as_json: bool) -> None:
    """The run folder, or all of run.json with the metrics, on stdout."""
    from finetune.files import read_json

    if not as_json:
        click.echo(folder)
        return
    record, metrics = read_json(folder / "run.json"), folder / "report" / "metrics.json"
    print_json({"run": str(folder), **record, **({"metrics": read_json(metrics)} if metrics.is_file() else {})})

"""`finetune compare`: whether one run is better than another."""

from __future__ import annotations

from pathlib import Path

import click

from finetune.cli.options import json_flag, print_json
from finetune.errors import FinetuneError, UsageError


@click.command()
@click.argument("runs", metavar="RUN RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--intersection", is_flag=True, help="Compare on the test images that all runs share.")
@click.option("--group", is_flag=True, help="Pool the runs of each folder: several seeds of one recipe.")
@click.option("--seed", default=0, show_default=True, help="Seed of the bootstrap.")
@click.option("--out", type=click.Path(path_type=Path), help="Where to write the page [LAST RUN/report/compare.html].")
@json_flag
def compare(
    runs: tuple[Path, ...], intersection: bool, group: bool, seed: int, out: Path | None, as_json: bool
) -> None:
    """Compare runs on the same test images: is one better, or is it chance?

    A RUN is a run folder, or a folder of runs, or a quoted glob: several seeds, which are pooled.
    """
    from finetune.deliver.compare import compare as do
    from finetune.deliver.compare import read_side
    from finetune.report.comparison import comparison_text

    sides: list[Path | list[Path]] = list(runs)
    if group:
        folders: dict[Path, list[Path]] = {}
        for run in runs:
            folders.setdefault(run.resolve().parent, []).append(run)
        sides = list(folders.values())
        if len(sides) < 2:
            raise UsageError("--group: all runs lie in one folder", "name runs of two folders or more")
    comparison = do(*sides, intersection=intersection, seed=seed)
    if as_json:
        print_json(comparison)
    else:
        click.echo(comparison_text(comparison))
    page = out or read_side(sides[-1]).runs[-1] / "report" / "compare.html"
    try:
        from finetune.deliver.compare_page import write_comparison

        write_comparison(page, comparison, read_side(sides[0]))
        click.echo(f"page: {page}", err=True)
    except FinetuneError as error:  # the comparison is told; a page that cannot be written is not worth its loss
        click.echo(f"note: no page: {error.problems[0]}", err=True)

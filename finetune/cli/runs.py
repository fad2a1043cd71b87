"""`finetune runs`: lists runs with their results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from finetune.cli.options import json_flag, print_json


@click.command()
@click.argument("folder", default="runs", type=click.Path(path_type=Path))
@click.option(
    "--sort",
    default="run",
    show_default=True,
    metavar="COLUMN",
    help="Sort by this column, e.g. accuracy, macro_f1, finished.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV in full precision on stdout.")
@json_flag
def runs(folder: Path, sort: str, as_csv: bool, as_json: bool) -> None:
    """List the runs in FOLDER [runs] with their figures."""
    from finetune.deliver.runs import COLUMNS, list_runs

    rows = list_runs(folder.expanduser(), sort)
    if as_json:
        print_json({"runs": rows})
    elif as_csv:
        from finetune.files import csv_text

        click.echo(csv_text(COLUMNS, [list(row.values()) for row in rows]), nl=False)
    else:
        from finetune.report.tables import number, table_text

        def cells(row: dict[str, Any]) -> list[str]:
            low, high = number(row["accuracy_low"], 2), number(row["accuracy_high"], 2)
            interval = f" {low}-{high}" if row["accuracy_low"] is not None else ""
            images = "-" if row["n"] is None else f"{row['n']:,} {row['split']}"
            finished = str(row["finished"] or "-")[:16].replace("T", " ")
            figures = [number(row["accuracy"], 4) + interval, number(row["macro_f1"]), images]
            return [
                row["run"],
                str(row["status"]),
                Path(str(row["backbone"] or "-")).name.removesuffix(".yaml"),
                *figures,
                finished,
            ]

        heads = ["run", "status", "backbone", "accuracy", "macro F1", "images", "finished"]
        click.echo("\n".join(table_text(heads, [cells(row) for row in rows])))

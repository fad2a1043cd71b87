"""`finetune evaluate`: evaluate a run's network on images."""

from __future__ import annotations

from pathlib import Path

import click

from finetune.cli.options import device, json_flag, precision, print_json, run_argument, say_first
from finetune.cli.progress import reporting
from finetune.cli.signals import stop_on_signals
from finetune.files import visible
from finetune.model.hub import shown


@click.command()
@run_argument
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option(
    "--split", type=click.Choice(["train", "val", "test"]), help="Which of the run's own images [test, else val]."
)
@device
@precision
@json_flag
def evaluate(
    run: Path, folder: Path | None, split: str | None, device: str | None, precision: str, as_json: bool
) -> None:
    """Evaluate the network of RUN on its own test images, or on FOLDER (one folder per class, matched by name)."""
    say_first(f"evaluating {visible(shown(run))}")
    from finetune.deliver.evaluate import evaluate as do
    from finetune.report.tables import per_class_text

    with stop_on_signals() as stop, reporting(stop) as reporter:
        evaluation, evaluated = do(
            run, folder, split=split, device=device or "auto", precision=precision, reporter=reporter
        )
    if as_json:
        print_json({"run": shown(run), **evaluation.metrics.as_dict(evaluated), "cautions": evaluation.cautions})
        return
    click.echo(per_class_text(evaluation.metrics, split=evaluated, cautions=evaluation.cautions))

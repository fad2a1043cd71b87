"""With a trained network: `finetune evaluate`, `finetune predict`, `finetune verify`."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune.cli.options import device, json_flag, print_json, run_argument
from finetune.cli.progress import watching
from finetune.cli.signals import stop_on_signals
from finetune.errors import ArtefactError, DataError
from finetune.files import cell, to_json, visible

if TYPE_CHECKING:
    from finetune.deliver.predict import Prediction

precision = click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="bf16 is faster where the CPU has AMX, on AMD with AVX-512, and on GPUs.",
)


@click.command()
@run_argument
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["train", "val", "test"]), help="Of the run's own images [test, else val].")
@device
@precision
@json_flag
def evaluate(
    run: Path, folder: Path | None, split: str | None, device: str | None, precision: str, as_json: bool
) -> None:
    """Judge the network of RUN on its own test images, or on FOLDER (one folder per class, matched by name)."""
    from finetune.deliver.evaluate import evaluate as do
    from finetune.report.tables import per_class_text

    with stop_on_signals() as stop, watching(stop) as watch:
        judgement, judged = do(run, folder, split=split, device=device or "auto", precision=precision, watch=watch)
    if as_json:
        print_json({"run": str(run), **judgement.metrics.as_dict(judged)})
        return
    click.echo(per_class_text(judgement.metrics))


@click.command()
@run_argument
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--topk", default=1, show_default=True, type=click.IntRange(1), help="How many classes to name.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV on stdout, with the probability of every class.")
@click.option("--strict", is_flag=True, help="Exit code 3 if a file could not be read.")
@device
@precision
@json_flag
def predict(
    run: Path,
    paths: tuple[str, ...],
    topk: int,
    as_csv: bool,
    strict: bool,
    device: str | None,
    precision: str,
    as_json: bool,
) -> None:
    """Label images with the network of RUN: files, folders, globs. A file that is no image gets an error instead."""
    from finetune.classifier import load
    from finetune.deliver.predict import find_images
    from finetune.deliver.predict import predict as do
    from finetune.device import choose

    files = find_images(paths)
    network = load(run).network
    compute = choose(device or "auto", precision, convolutional=network.convolutional, light=network.light)
    found = do(network, files, compute, loss=network.loss)
    failed = 0
    if as_json:
        rows = list(found)
        failed = sum(row.error is not None for row in rows)
        print_json({"run": str(run), "predictions": [_as_dict(row, topk) for row in rows]})
    else:
        lines = _csv_lines(found, network.classes) if as_csv else _text_lines(found, topk)
        for line, bad in lines:
            failed += bad
            click.echo(line, nl=not as_csv)
    sys.stdout.flush()
    if failed and strict:
        raise DataError(f"{failed} of {len(files)} files could not be read", "the rows above say which and why")


def _as_dict(row: Prediction, topk: int) -> dict[str, Any]:
    top = [{"label": label, "confidence": confidence} for label, confidence in row.top(topk)]
    return {"path": row.path, "label": row.label, "confidence": row.confidence, "top": top, "error": row.error}


def _text_lines(rows: Iterable[Prediction], topk: int) -> Iterable[tuple[str, bool]]:
    for row in rows:
        named = "  ".join(f"{visible(label)} {confidence:.4f}" for label, confidence in row.top(topk))
        yield f"{visible(row.path)}  {named or 'error: ' + visible(row.error or '')}", row.error is not None


def _csv_lines(rows: Iterable[Prediction], classes: list[str]) -> Iterable[tuple[str, bool]]:
    heading = ["path", "predicted", "confidence", "error", *(f"p:{name}" for name in classes)]
    yield _csv_line(heading), False
    for row in rows:
        chances = row.probabilities or {}
        values = [row.path, row.label, row.confidence, row.error, *(chances.get(name) for name in classes)]
        yield _csv_line(values), row.error is not None


def _csv_line(values: list[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([cell(value) for value in values])
    return buffer.getvalue()


@click.command()
@run_argument
@json_flag
def verify(run: Path, as_json: bool) -> None:
    """Check that every checkpoint, bundle and table that RUN published is whole."""
    from finetune.deliver.verify import verify as do

    found = do(run)
    broken = [(path, reason) for path, reason in found if reason is not None]
    if as_json:
        listed = [{"path": str(path), "problem": reason} for path, reason in found]
        click.echo(to_json({"run": str(run), "whole": not broken, "artefacts": listed}, indent=2))
    else:
        for path, reason in found:
            click.echo(f"{'whole ' if reason is None else 'BROKEN'}  {visible(str(path))}")
    if broken:
        raise ArtefactError(
            [f"{path}: {reason}" for path, reason in broken],
            "what is whole can still be used: `finetune resume` goes on from the newest whole checkpoint",
        )
    if not as_json and not found:
        click.echo("nothing published yet, so nothing is broken")

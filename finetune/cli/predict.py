"""`finetune predict`: label image files with a run's network."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune.cli.options import device, json_flag, precision, print_json, run_argument
from finetune.errors import DataError
from finetune.files import cell, visible

if TYPE_CHECKING:
    from finetune.deliver.predict import Prediction
    from finetune.deliver.vectors.knn import NeighbourVote
    from finetune.device import Compute
    from finetune.model.network import Network


@click.command()
@run_argument
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--topk", default=1, show_default=True, type=click.IntRange(1), help="How many classes to name.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV on stdout, with the probability of every class.")
@click.option("--knn", metavar="STORE", type=click.Path(path_type=Path), help="Label by the neighbours in STORE.")
@click.option("--strict", is_flag=True, help="Exit code 3 if a file could not be read.")
@device
@precision
@json_flag
def predict(
    run: Path,
    paths: tuple[str, ...],
    topk: int,
    as_csv: bool,
    knn: Path | None,
    strict: bool,
    device: str | None,
    precision: str,
    as_json: bool,
) -> None:
    """Label images with the network of RUN: files, folders, globs. A file that is no image gets an error instead."""
    from finetune.classifier import load
    from finetune.deliver.predict import find_images
    from finetune.deliver.predictor import Predictor
    from finetune.device import choose

    files = find_images(paths)
    network = load(run).network
    compute = choose(device or "auto", precision, convolutional=network.convolutional, light=network.light)
    predictor = Predictor(network, compute, images=len(files), vote=_vote(network, knn, compute))
    found = predictor.stream(files)
    failed = 0
    if as_json:
        rows = list(found)
        failed = sum(row.error is not None for row in rows)
        print_json({"run": str(run), "predictions": [_as_dict(row, topk) for row in rows]})
    else:
        lines = _csv_lines(found, predictor.classes) if as_csv else _text_lines(found, topk)
        for line, bad in lines:
            failed += bad
            click.echo(line, nl=not as_csv)
    sys.stdout.flush()
    if failed and strict:
        raise DataError(f"{failed} of {len(files)} files could not be read", "the rows above say which and why")


def _vote(network: Network, store: Path | None, compute: Compute) -> NeighbourVote | None:
    if store is None:
        return None
    from finetune.deliver.vectors.knn import NeighbourVote

    return NeighbourVote(network, store, compute)


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

"""`finetune predict`: label image files with a run's network, on the terminal or into a file that grows."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune.cli.options import (
    device,
    json_flag,
    open_run_network,
    precision,
    print_json,
    run_argument,
    say_first,
)
from finetune.cli.progress import counting
from finetune.cli.signals import stop_on_signals
from finetune.errors import DataError, Stopped, UsageError
from finetune.files import cell, visible
from finetune.model.hub import shown

if TYPE_CHECKING:
    from finetune.deliver.predict import Prediction
    from finetune.deliver.predictor import Predictor
    from finetune.deliver.sort import Sorter


def _threshold(ctx: click.Context, param: click.Parameter, value: str | None) -> float | str | None:
    """A confidence from 0 to 1, or `auto`."""
    return value if value in (None, "auto") else float(click.FloatRange(0, 1)(value, param, ctx))


@click.command()
@run_argument
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--topk", default=1, show_default=True, type=click.IntRange(1), help="How many classes to name.")
@click.option(
    "--threshold",
    callback=_threshold,
    metavar="P|auto",
    help="No label where the confidence is below P [the run's own, if it has one]; auto: the one found on validation.",
)
@click.option("--csv", "as_csv", is_flag=True, help="CSV on stdout, with the probability of every class.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write to FILE.csv, .jsonl or .parquet.")
@click.option("--resume", is_flag=True, help="Continue --out: predict only images that it has no row for.")
@click.option("--knn", metavar="STORE", type=click.Path(path_type=Path), help="Label by the neighbours in STORE.")
@click.option(
    "--copy-to", type=click.Path(path_type=Path), metavar="DIR", help="Copy files to DIR/LABEL (see --apply)."
)
@click.option(
    "--move-to", type=click.Path(path_type=Path), metavar="DIR", help="Move files to DIR/LABEL (see --apply)."
)
@click.option("--apply", is_flag=True, help="Copy or move for real; without it, only print what would be done.")
@click.option("--strict", is_flag=True, help="Exit code 3 if a file could not be read.")
@device
@precision
@json_flag
def predict(
    run: Path,
    paths: tuple[str, ...],
    topk: int,
    threshold: float | str | None,
    as_csv: bool,
    out: Path | None,
    resume: bool,
    knn: Path | None,
    copy_to: Path | None,
    move_to: Path | None,
    apply: bool,
    strict: bool,
    device: str | None,
    precision: str,
    as_json: bool,
) -> None:
    """Label images with the network of RUN: files, folders, globs, or - for a list of files on stdin.

    A file that is no image gets an error instead of a label.
    """
    say_first(f"predicting with {visible(str(run))}")
    _check(out, resume, as_csv, copy_to, move_to, apply)
    files = _named(run, paths)
    predictor = _predictor(run, device, precision, threshold, knn, files)
    sorter = _sorter(copy_to, move_to, apply, predictor)
    if out is not None:
        count = _to_file(predictor, files, out, topk, resume, None if paths == ("-",) else _count(files))
        problem = _unreadable(count, out) if strict else None
        _tell(count, run, out, as_json, problem)
    else:
        rows = _placed(predictor, files, sorter)
        if as_json:
            found = [row for row, _ in rows]
            count = _counted(found)
            problem = _unreadable(count) if strict else None
            print_json({"run": shown(run), "predictions": [_as_dict(row, topk) for row in found]}, problem)
        else:
            count = Counter()
            for line, row in _csv_lines(rows, predictor.classes) if as_csv else _text_lines(rows, topk):
                click.echo(line, nl=not as_csv)
                count += _counted([row] if row is not None else [])
            problem = _unreadable(count) if strict else None
    sys.stdout.flush()
    for line in getattr(files, "notes", ()):
        click.echo(f"note: {line}", err=True)
    if sorter is not None:
        _tell_sorted(sorter, count["images"])
    if problem is not None:
        raise problem


def _unreadable(count: Counter[str], out: Path | None = None) -> DataError | None:
    """The error that --strict makes of files that could not be read."""
    if not count["errors"]:
        return None
    problem = f"{count['errors']} of {count['images']} files could not be read"
    return DataError(problem, "the rows above say which and why" if out is None else f"{out} says which and why")


def _check(
    out: Path | None, resume: bool, as_csv: bool, copy_to: Path | None, move_to: Path | None, apply: bool
) -> None:
    """Refuse what does not go together, before anything is loaded."""
    to = [f"--{name}-to" for name, folder in (("copy", copy_to), ("move", move_to)) if folder is not None]
    if out is not None and as_csv:
        raise UsageError("--csv writes to stdout, --out to a file", "give one of them: --out FILE.csv is CSV, too")
    if len(to) > 1 or (to and out is not None):
        raise UsageError(f"{' and '.join([*to, *(['--out'] if out else [])])}: one at a time", "run it twice")
    if apply and not to:
        raise UsageError("--apply says really to copy or move", "say where with --copy-to or --move-to")
    if out is None and resume:
        raise UsageError("--resume adds to a file", "name it with --out")
    if out is not None:
        from finetune.deliver.table import check_out

        check_out(out, resume)


def _sorter(copy_to: Path | None, move_to: Path | None, apply: bool, predictor: Predictor) -> Sorter | None:
    folder = move_to or copy_to
    if folder is None:
        return None
    from finetune.deliver.sort import Sorter

    return Sorter(folder, predictor.classes, move=move_to is not None, apply=apply)


def _placed(
    predictor: Predictor, files: Iterable[Path], sorter: Sorter | None
) -> Iterator[tuple[Prediction, Path | None]]:
    """Each prediction, and where its file goes."""
    for row in predictor.stream(files if sorter is None else sorter.unsorted(files)):
        yield row, None if sorter is None else sorter.place(row)


def _tell_sorted(sorter: Sorter, images: int) -> None:
    done = "moved" if sorter.move else "copied"
    number = sum(sorter.counts.values())
    each = ", ".join(f"{visible(label)} {count:,}" for label, count in sorted(sorter.counts.items()))
    also = "" if sorter.apply else "; nothing is done yet: add --apply"
    said = f"{number:,} of {images:,} files {done if sorter.apply else 'would be ' + done} to {sorter.folder}"
    click.echo(f"{said}{f' ({each})' if each else ''}{also}", err=True)


def _named(run: Path, paths: tuple[str, ...]) -> Iterable[Path]:
    from finetune.data.find import Files
    from finetune.deliver.predict import rules_of

    if "-" not in paths:
        return Files(paths, rules_of(run))
    if len(paths) > 1:
        raise UsageError("-: the list of files comes from stdin", "give - alone, or paths and no -")
    lines = (line.rstrip(b"\r\n") for line in sys.stdin.buffer)
    return (Path(os.fsdecode(line)) for line in lines if line)


def _count(files: Iterable[Path], limit: int | None = None) -> int:
    return sum(1 for _ in islice(files, limit))


def _predictor(
    run: Path,
    device: str | None,
    precision: str,
    threshold: float | str | None,
    knn: Path | None,
    files: Iterable[Path],
) -> Predictor:
    from finetune.deliver.predict import BUNDLE, threshold_of
    from finetune.deliver.predictor import Predictor
    from finetune.device import choose
    from finetune.evaluate.evaluation import MANY

    network = open_run_network(run)
    compute = choose(device or "auto", precision, convolutional=network.convolutional, light=network.light)
    images = MANY if isinstance(files, Iterator) else _count(files, MANY)  # how many stdin names is not known
    vote = None
    if knn is not None:
        from finetune.deliver.vectors.knn import NeighbourVote

        vote = NeighbourVote(network, knn, compute)
    if threshold is None and vote is None:
        threshold = BUNDLE  # that of the head's confidence, which a vote has not
    return Predictor(network, compute, threshold=threshold_of(network, threshold), images=images, vote=vote)


def _to_file(
    predictor: Predictor, files: Iterable[Path], out: Path, topk: int, resume: bool, total: int | None
) -> Counter[str]:
    """Write a row for each file that has none."""
    from finetune.deliver.table import PredictionTable
    from finetune.evaluate.evaluation import BATCH

    table = PredictionTable(out, predictor.classes, topk=topk, resume=resume)
    count: Counter[str] = Counter()
    left = None if total is None else max(0, total - len(table))
    with stop_on_signals() as stop, counting("images", left) as tick, table.opened() as file:
        answers = predictor.stream(path for path in files if not table.has(path))
        while rows := list(islice(answers, BATCH)):
            file.add(rows)
            count += _counted(rows)
            tick(count["images"])
            if (signum := stop()) is not None:
                done = f"stopped with {count['images'] + len(table):,} rows in {out}"
                raise Stopped(signum, done, "go on with the same command and --resume")
    count["before"] = len(table)
    return count


def _counted(rows: Iterable[Prediction]) -> Counter[str]:
    count: Counter[str] = Counter()
    for row in rows:
        count["images"] += 1
        count["errors"] += row.error is not None
        count["abstained"] += row.abstained
    return count


def _tell(count: Counter[str], run: Path, out: Path, as_json: bool, problem: DataError | None) -> None:
    numbers = {name: count[name] for name in ("images", "before", "errors", "abstained")}
    if as_json:
        print_json({"run": shown(run), "out": str(out), **numbers}, problem)
        return
    also = {"before": "already there", "errors": "could not be read", "abstained": "without a label"}
    said = [f"{numbers[name]:,} {text}" for name, text in also.items() if numbers[name]]
    click.echo(f"{out}: {numbers['images']:,} images{'; ' + ', '.join(said) if said else ''}", err=True)


def _as_dict(row: Prediction, topk: int) -> dict[str, Any]:
    top = [{"label": label, "confidence": confidence} for label, confidence in row.top(topk)]
    return {
        "path": row.path,
        "label": row.label,
        "confidence": row.confidence,
        "top": top,
        "abstained": row.abstained,
        "error": row.error,
    }


def _text_lines(rows: Iterable[tuple[Prediction, Path | None]], topk: int) -> Iterator[tuple[str, Prediction]]:
    for row, target in rows:
        named = "  ".join(f"{visible(label)} {confidence:.4f}" for label, confidence in row.top(topk))
        named = f"not sure: {named}" if row.abstained else named
        goes = f"  → {visible(str(target))}" if target is not None else ""
        yield f"{visible(row.path)}  {named or 'error: ' + visible(row.error or '')}{goes}", row


def _csv_lines(
    rows: Iterable[tuple[Prediction, Path | None]], classes: list[str]
) -> Iterator[tuple[str, Prediction | None]]:
    yield _csv_line(["path", "predicted", "confidence", "abstained", "error", *(f"p:{name}" for name in classes)]), None
    for row, _ in rows:
        chances = row.probabilities or {}
        first = [row.path, row.label, row.confidence, str(row.abstained).lower(), row.error]
        yield _csv_line([*first, *(chances.get(name) for name in classes)]), row


def _csv_line(values: list[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([cell(value) for value in values])
    return buffer.getvalue()

"""`finetune embed`: vectors of images into a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune.cli.options import device, json_flag, print_json, say_first
from finetune.cli.progress import reporting
from finetune.cli.signals import stop_on_signals
from finetune.errors import DataError
from finetune.files import visible

if TYPE_CHECKING:
    from finetune.deliver.vectors.images import Embedded
    from finetune.deliver.vectors.store import VectorStore


@click.command()
@click.argument("model", metavar="RUN|BACKBONE")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--to", "store", metavar="STORE", required=True, type=click.Path(path_type=Path), help="Store folder.")
@click.option("--layer", metavar="GROUP", help="Layer group to take vectors from [the last one before the head].")
@click.option("--prune", is_flag=True, help="Remove images from the store that are no longer in FOLDER.")
@click.option(
    "--database", type=click.Choice(["lancedb", "parquet"]), help="Database of a new store [lancedb if installed]."
)
@click.option("--strict", is_flag=True, help="Exit code 3 if a file could not be read.")
@device
@json_flag
def embed(
    model: str,
    folder: Path,
    store: Path,
    layer: str | None,
    prune: bool,
    database: str | None,
    strict: bool,
    device: str | None,
    as_json: bool,
) -> None:
    """Store a feature vector of every image below FOLDER in STORE, computed by RUN (or a BACKBONE).

    Only new and changed images are computed, so the same command goes on after an interruption. With class folders,
    each vector carries its class; with a run, the run's split, prediction and confidence too.
    """
    say_first(f"embedding {visible(str(folder))} with {visible(model)}")
    from finetune.deliver.embed import embed as do

    with stop_on_signals() as stop, reporting(stop) as reporter:
        kept, done = do(
            model,
            folder,
            store,
            layer=layer,
            prune=prune,
            database=database,
            device=device or "auto",
            tick=lambda count, total: reporter.progress("embedding", count, total),
            stop=stop,
        )
    for path, reason in done.failed:
        click.echo(f"not embedded: {visible(path)}: {reason}", err=True)
    problem = None
    if strict and done.failed:
        problem = DataError(f"{len(done.failed)} files could not be read", "the lines above say which and why")
    if as_json:
        print_json(_as_dict(kept, done), problem)
    else:
        click.echo(_text(kept, done))
    if problem is not None:
        raise problem


def _as_dict(store: VectorStore, done: Embedded) -> dict[str, Any]:
    made = store.identity
    return {
        "store": str(store.path.absolute()),
        "database": store.database,
        "images": done.images,
        "new": done.new,
        "changed": done.changed,
        "unchanged": done.unchanged,
        "removed": done.removed,
        "gone": done.gone,
        "failed": [{"path": path, "error": reason} for path, reason in done.failed],
        "layer": made.layer,
        "features": made.features,
        "weights_sha256": made.weights_sha256,
        "seconds": done.seconds,
    }


def _text(store: VectorStore, done: Embedded) -> str:
    made, computed = store.identity, done.new + done.changed
    speed = f", {computed / done.seconds:.0f} images/s" if computed and done.seconds else ""
    counts = f"{done.new:,} new, {done.changed:,} changed, {done.unchanged:,} unchanged, {done.removed:,} removed"
    lines = [
        f"{done.images:,} images in {visible(str(store.path))} ({store.database}): {counts}{speed}",
        f"each a vector of {made.features:,} numbers: the output of {made.layer}, {made.architecture}",
    ]
    if done.gone:
        lines.append(f"{done.gone:,} images of the store are no longer in the folder: add --prune to drop them")
    return "\n".join(lines)

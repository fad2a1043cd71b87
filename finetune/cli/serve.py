"""`finetune serve`: a run's network behind HTTP, with a page for people."""

from __future__ import annotations

import os
from pathlib import Path

import click

from finetune.cli.options import device, open_run_network, precision, run_argument
from finetune.errors import ResourceError, UsageError
from finetune.model.hub import shown

NEAREST = 4
"""Images of a store beside each answer."""


@click.command()
@run_argument
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 takes any free one."
)
@click.option("--token", metavar="TOKEN", help="Require this bearer token; or set FINETUNE_TOKEN.")
@click.option(
    "--max-batch", default=32, show_default=True, type=click.IntRange(1, 1024), help="Most images per forward pass."
)
@click.option(
    "--max-wait-ms",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0, 10_000),
    help="How long a decoded image waits for others, to share a batch.",
)
@click.option("--store", type=click.Path(path_type=Path), help="Show the nearest images of this store, too.")
@device
@precision
def serve(
    run: Path,
    host: str,
    port: int,
    token: str | None,
    max_batch: int,
    max_wait_ms: float,
    store: Path | None,
    device: str | None,
    precision: str,
) -> None:
    """Serve the network of RUN over HTTP: a page at /, POST /predict, and GET /health /ready /model /metrics /docs."""
    _require_extra()
    from finetune.serve.ports import is_loopback, listen, url_of

    token = _checked(os.environ.get("FINETUNE_TOKEN") if token is None else token)
    listening = listen(host, port)
    if not is_loopback(host) and token is None:
        click.echo(f"warning: anybody who reaches {host} can use this server: there is no --token", err=True)

    from finetune.deliver.predictor import Predictor
    from finetune.device import choose
    from finetune.serve.about import about
    from finetune.serve.app import Served
    from finetune.serve.batching import Batcher
    from finetune.serve.gate import State
    from finetune.serve.intake import Limits
    from finetune.serve.metrics import ServerMetrics
    from finetune.serve.server import serve as do

    network = open_run_network(run)
    compute = choose(device or "auto", precision, convolutional=network.convolutional, light=network.light)
    metrics = ServerMetrics()
    near, thumbnails = None, None
    if store is not None:
        from finetune.deliver.vectors.knn import NeighbourVote
        from finetune.serve.thumbnails import Thumbnails

        near = NeighbourVote(network, store, compute, k=NEAREST)
        thumbnails = Thumbnails(near.store)
    batcher = Batcher(
        Predictor(network, compute, threshold=network.threshold, near=near),
        max_batch=max_batch,
        max_wait=max_wait_ms / 1000,
        batched=metrics.batches.observe,
    )
    served = Served(batcher, about(run, network, threshold=network.threshold), metrics, State(), Limits(), thumbnails)
    click.echo(f"serving {shown(run)} at {url_of(listening)} (end with Ctrl-C)", err=True)
    do(served, listening, token=token)


def _checked(token: str | None) -> str | None:
    if token is not None and not (token.isascii() and token.isprintable() and token.strip() == token and token):
        raise UsageError("--token: empty, or with characters that no HTTP header can carry", "use letters and digits")
    return token


def _require_extra() -> None:
    try:  # each by its own name: no module is ever imported whose name is put together
        import fastapi  # noqa: F401  # only whether it is there
        import prometheus_client  # noqa: F401  # likewise
        import python_multipart  # noqa: F401  # likewise
        import uvicorn  # noqa: F401  # likewise
    except ImportError as error:
        raise ResourceError(
            f"serving needs {error.name}, which is not installed", "install it: pip install 'finetune-toolkit[serve]'"
        ) from error

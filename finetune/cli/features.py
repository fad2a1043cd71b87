"""`finetune features`: the output of each layer for an image."""

from __future__ import annotations

from pathlib import Path

import click

from finetune.cli.options import device, json_flag, open_run_network, print_json, run_argument
from finetune.files import visible
from finetune.model.hub import shown


@click.command()
@run_argument
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default="features.png", show_default=True, help="PNG to write.")
@click.option("--force", is_flag=True, help="Replace the PNG if it exists.")
@device
@json_flag
def features(run: Path, image: Path, out: Path, force: bool, device: str | None, as_json: bool) -> None:
    """Draw the output of each layer group of RUN for IMAGE: channels as pictures, vectors as bars.

    Existing files are overwritten only with --force.
    """
    from finetune.deliver.features import check_out, summary, write_features
    from finetune.deliver.features import features as do
    from finetune.device import choose
    from finetune.report.tables import table_text

    check_out(out, force)
    network = open_run_network(run)
    compute = choose(device or "auto", "fp32", convolutional=network.convolutional, light=network.light)
    passage = do(network, image, compute)
    write_features(out, passage)
    rows, best = summary(passage), int(passage.probabilities.argmax())
    label, confidence = passage.classes[best], float(passage.probabilities[best])
    if as_json:
        found = {"label": label, "confidence": confidence, "groups": rows}
        print_json({"run": shown(run), "image": str(image), "picture": str(out), **found})
        return
    keys = ("min", "max", "mean", "zeros")
    cells = [[row["group"], "×".join(map(str, row["shape"])), *(f"{row[key]:.3g}" for key in keys)] for row in rows]
    click.echo("\n".join(table_text(["group", "shape", "least", "most", "mean", "share of zeros"], cells)))
    click.echo(f"\n{visible(label)} {confidence:.4f}\npicture: {visible(str(out))}")

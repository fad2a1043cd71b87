"""`finetune explain`: which parts of an image speak for a class."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from finetune.cli.options import device, json_flag, print_json, run_argument, say_first
from finetune.files import visible
from finetune.model.hub import shown

if TYPE_CHECKING:
    from finetune.evaluate.attribution import Method


@click.command()
@run_argument
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("--class", "label", metavar="NAME", help="The class to explain [the predicted one].")
@click.option(
    "--method", type=click.Choice(["gradcam", "occlusion"]), help="Method [gradcam, where the network has maps]."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default="explain", show_default=True, help="Output folder, or a PNG."
)
@click.option("--force", is_flag=True, help="Replace existing pictures.")
@device
@json_flag
def explain(
    run: Path,
    images: tuple[str, ...],
    label: str | None,
    method: Method | None,
    out: Path,
    force: bool,
    device: str | None,
    as_json: bool,
) -> None:
    """Draw which parts of each IMAGE speak for its predicted class (or for --class), by the network of RUN.

    Grad-CAM on the last layer that keeps positions apart; occlusion for networks without one, such as small/mlp. A hot
    spot made the network more sure of the class; it does not say that the network is right.
    """
    say_first(f"explaining with {visible(str(run))}")
    from finetune.classifier import load
    from finetune.data.find import find_images
    from finetune.deliver.explain import explain as do
    from finetune.deliver.explain import pictures_for, write_picture
    from finetune.device import choose

    files = find_images(images)
    places = pictures_for(out, files, force)
    network = load(run).network
    compute = choose(device or "auto", "fp32", convolutional=network.convolutional, light=network.light)
    rows = []
    for (file, found), place in zip(do(network, files, compute, label=label, method=method), places, strict=True):
        write_picture(place, found)
        how = {"method": found.method, "layer": found.layer or None}
        said = {"class": found.label, "confidence": found.confidence, "predicted": found.predicted}
        rows.append({"path": str(file), **said, **how, "picture": str(place)})
        if not as_json:
            click.echo(f"{visible(str(file))}  {visible(found.label)} {found.confidence:.4f}  {visible(str(place))}")
    if as_json:
        print_json({"run": shown(run), "explanations": rows})

"""`finetune export`: a run's network in the formats of other programs."""

from __future__ import annotations

from pathlib import Path

import click

from finetune.cli.options import json_flag, print_json, run_argument, say_first
from finetune.files import visible
from finetune.model.hub import shown

FORMATS = ("onnx", "torch", "timm")


@click.command()
@run_argument
@click.option("--to", "formats", type=click.Choice(FORMATS), multiple=True, help="Format; may be repeated. [onnx]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the export; of several formats, one folder each in it. [RUN/export/FORMAT]",
)
@click.option("--int8", is_flag=True, help="Add an int8 network to onnx, if it is not much less accurate.")
@click.option("--accept-loss", is_flag=True, help="Keep the int8 network even if it is.")
@json_flag
def export(run: Path, formats: tuple[str, ...], out: Path | None, int8: bool, accept_loss: bool, as_json: bool) -> None:
    """Write the network of RUN for other programs. Each export must answer as `finetune predict` does, or is not kept.

    \b
    onnx   network.onnx (prepared pixels to logits) and classifier.onnx (a picture to probabilities)
    torch  network.pt2, a torch.export program
    timm   a folder for timm.create_model("local-dir:FOLDER", pretrained=True)

    --int8 adds network-int8.onnx and classifier-int8.onnx: calibrated on training images, evaluated on test images. A
    loss of accuracy that is significant and above one point is not kept, but with --accept-loss.
    """
    say_first(f"exporting {visible(str(run))}")
    from finetune.deliver.export.latency import latency_text
    from finetune.deliver.export.of_run import export_run

    found = export_run(
        run,
        formats or ("onnx",),
        out,
        int8=int8,
        accept_loss=accept_loss,
        say=lambda text: click.echo(text, err=True),
    )
    if as_json:
        print_json({"run": shown(run), "exports": [{"folder": str(one.folder), **one.record} for one in found]})
        return
    for one in found:
        click.echo(f"{visible(str(one.folder))}")
        for name, file in one.record["files"].items():
            click.echo(f"  {name}  {file['bytes'] / 1e6:.1f} MB")
        for parity in one.parities:
            click.echo(f"  {parity.line()}")
        if one.int8:
            click.echo(f"  {one.int8.line()}")
        for note in one.record.get("notes", []):
            click.echo(f"  note: {visible(note)}")
    rows = {(row["program"], row["batch"], row["threads"]): row for one in found for row in one.record["latency"]}
    click.echo(f"\n{latency_text(list(rows.values()))}")

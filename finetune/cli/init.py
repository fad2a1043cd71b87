"""`finetune init`: a commented recipe for a folder of images."""

from __future__ import annotations

from pathlib import Path

import click

from finetune.errors import DataError, UsageError
from finetune.files import visible, write_text


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The recipe to write [NAME.yaml, after the folder].")
@click.option("--backbone", default="auto", show_default=True, help="Network to start from; auto: the best available.")
def init(folder: Path, out: Path | None, backbone: str) -> None:
    """Write the recipe that `finetune run FOLDER` would use, with comments. FOLDER has one folder per class."""
    from finetune.data.listing import list_folder
    from finetune.data.output_paths import is_inside, require_outside
    from finetune.data.scan import no_images
    from finetune.recipe.template import commented

    if not folder.is_dir():
        raise DataError(f"{visible(str(folder))}: no such folder", "give a folder with one folder of images per class")
    listing = list_folder(folder.resolve(), None)
    if not listing.samples:
        raise no_images(folder, listing, [])
    real, inside = folder.resolve(), is_inside(Path.cwd(), folder)
    target = out or (real.parent if inside else Path()) / f"{real.name}.yaml"
    require_outside(target, folder)
    if target.exists():
        raise UsageError(f"{visible(str(target))}: already exists", "choose another name with --out")
    write_text(
        target, commented(str(real if inside else folder), real.name, listing.classes, len(listing.samples), backbone)
    )
    click.echo(target)
    click.echo(f"look it over, then: finetune check {target}; finetune run {target}", err=True)

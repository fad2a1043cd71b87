"""`finetune sample`: built-in sample images as a folder."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("name", type=click.Choice(["vehicles", "digits"]))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--per-class", type=click.IntRange(1, 100_000), help="Vehicles per class [120].")
@click.option("--size", type=click.IntRange(16, 1024), help="Side length of the vehicles in pixels [128].")
@click.option("--seed", type=click.IntRange(0), help="Seed of the drawing [0].")
def sample(name: str, folder: Path, per_class: int | None, size: int | None, seed: int | None) -> None:
    """Write the built-in sample NAME into DIR, which must be absent or empty, one folder per class.

    vehicles: drawn scenes of light and heavy vehicles; the same bytes for the same seed.
    digits: scikit-learn's 1,797 real handwritten digits, 8x8 pixels.
    """
    from finetune.data.samples.catalogue import ABOUT, write_sample

    given = {"per_class": per_class, "size": size, "seed": seed}
    classes = write_sample(name, folder, **{key: value for key, value in given.items() if value is not None})
    click.echo(folder)
    click.echo(f"{ABOUT[name]} Classes: {', '.join(classes)}", err=True)

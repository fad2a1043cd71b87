"""What can be named: `finetune layers`, `finetune models`, `finetune recipes`, `finetune sample`."""

from __future__ import annotations

from pathlib import Path

import click

from finetune.cli.options import json_flag, print_json


@click.command()
@click.argument("backbone")
@click.option("--classes", default=2, show_default=True, type=click.IntRange(2), help="Size of the new head.")
@json_flag
def layers(backbone: str, classes: int, as_json: bool) -> None:
    """List the layer groups of BACKBONE, in forward order, with their parameters.

    These names, `head`, `backbone`, `all`, `last:N` and globs over parameter names are the patterns of
    model.unfreeze, --freeze and --unfreeze. No weights are fetched.
    """
    from finetune.model.backbones import build
    from finetune.report.tables import table_text

    network = build(backbone, [str(number) for number in range(classes)], weights="none")
    sizes = network.parameters
    rows = [
        (group, sum(sizes.get(name, 0) for name in names), next((name for name in names if name in sizes), "-"))
        for group, names in network.groups.items()
    ]
    if as_json:
        print_json(
            {
                "architecture": network.architecture,
                "head": network.head,
                "groups": {group: {"parameters": count, "tensors": network.groups[group]} for group, count, _ in rows},
            }
        )
        return
    table = [[group, f"{count:,}", first] for group, count, first in rows]
    click.echo("\n".join(table_text(["group", "parameters", "first parameter"], table)))
    click.echo(f"\n{sum(sizes.values()):,} parameters; input {network.preprocess.size[0]}x{network.preprocess.size[1]}")


@click.command()
@click.argument("pattern", default="")
@json_flag
def models(pattern: str, as_json: bool) -> None:
    """List what model.backbone can be: the models at hand, and with PATTERN the architectures that match it.

    PATTERN is a glob, or a part of a name: 'resnet50', 'timm/convnext*', 'resnet50.' (timm's tagged weights).
    """
    from finetune.model.backbones import list_backbones
    from finetune.recipe.load import CHECKOUT

    cards = {f"models/{card.stem}": card for home in (CHECKOUT, Path.cwd()) for card in home.glob("models/*.yaml")}
    own = sorted(name for name in cards if pattern in name)
    architectures = list_backbones(pattern) if pattern else []
    if as_json:
        print_json({"models": own, "architectures": architectures})
        return
    for name in own:
        click.echo(f"{name}  {_first_comment(cards[name])}".rstrip())
    for name in architectures:
        click.echo(name)
    if not pattern:
        click.echo(
            f"and {len(list_backbones()):,} architectures of timm and torchvision: finetune models NAME", err=True
        )


@click.command()
@json_flag
def recipes(as_json: bool) -> None:
    """List the recipes in ./recipes, or those that come with the package."""
    from finetune.recipe.load import shipped

    found = [(path, _first_comment(path)) for path in shipped()]
    if as_json:
        print_json({"recipes": [{"path": str(path), "about": about} for path, about in found]})
        return
    for path, about in found:
        click.echo(f"{path}  {about}")


def _first_comment(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.lstrip("# ") for line in lines if line.startswith("# ") and "yaml-language" not in line), "")


@click.command()
@click.argument("name", type=click.Choice(["vehicles", "digits"]))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--per-class", type=click.IntRange(1, 100_000), help="Vehicles a class [120].")
@click.option("--size", type=click.IntRange(16, 1024), help="Pixels a side of the vehicles [128].")
@click.option("--seed", type=click.IntRange(0), help="Another seed, other vehicles [0].")
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

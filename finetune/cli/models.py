"""`finetune models`: what a recipe can name as its backbone."""

from __future__ import annotations

from pathlib import Path

import click

from finetune.cli.options import json_flag, print_json


@click.command()
@click.argument("pattern", default="")
@json_flag
def models(pattern: str, as_json: bool) -> None:
    """List what model.backbone can be: the models at hand, and with PATTERN the architectures that match it.

    PATTERN is a glob, or a part of a name: 'resnet50', 'timm/convnext*', 'resnet50.' (timm's tagged weights).
    """
    from finetune.model.backbones import list_backbones
    from finetune.recipe.load import CHECKOUT, first_comment

    cards = {f"models/{card.stem}": card for home in (CHECKOUT, Path.cwd()) for card in home.glob("models/*.yaml")}
    own = sorted(name for name in cards if pattern in name)
    architectures = list_backbones(pattern) if pattern else []
    if as_json:
        print_json({"models": own, "architectures": architectures})
        return
    for name in own:
        click.echo(f"{name}  {first_comment(cards[name])}".rstrip())
    for name in architectures:
        click.echo(name)
    if not pattern:
        click.echo(
            f"and {len(list_backbones()):,} architectures of timm and torchvision: finetune models NAME", err=True
        )

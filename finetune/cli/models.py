"""`finetune models`: lists the backbones that a recipe can name."""

from __future__ import annotations

from pathlib import Path

import click

from finetune.cli.options import json_flag, print_json
from finetune.errors import UsageError
from finetune.files import visible


@click.command()
@click.argument("pattern", default="")
@json_flag
def models(pattern: str, as_json: bool) -> None:
    """List the values of model.backbone: the models on this machine, and with PATTERN the architectures that match it.

    PATTERN is a glob, or a part of a name: 'resnet50', 'timm/convnext*', 'resnet50.' (timm's tagged weights).
    """
    from finetune.model.available import list_at_hand
    from finetune.model.backbones import list_backbones

    own = list_at_hand(Path.cwd(), pattern)
    architectures = list_backbones(pattern) if pattern else []
    if as_json:
        at_hand = [{"name": m.name, "where": m.where, "ready": m.ready, "about": m.about} for m in own]
        print_json({"models": [m.name for m in own], "at_hand": at_hand, "architectures": architectures})
        return
    for model in own:
        click.echo(f"{model.name}  {visible(model.about)}".rstrip())
        click.echo(f"    {'ready' if model.ready else 'not ready'}: {visible(model.where)}")
    for name in architectures:
        click.echo(name)
    if not own and not architectures:
        raise UsageError(f"{visible(pattern)}: no model of this name", "try a part of it: finetune models resnet")
    if not pattern:
        click.echo(
            f"and {len(list_backbones()):,} architectures of timm and torchvision, whose weights are fetched from "
            "their hub when first used: finetune models NAME",
            err=True,
        )

"""`finetune recipes`: lists the recipes to start from."""

from __future__ import annotations

import click

from finetune.cli.options import json_flag, print_json
from finetune.files import first_comment


@click.command()
@json_flag
def recipes(as_json: bool) -> None:
    """List the recipes in ./recipes, or those that come with the package."""
    from finetune.recipe.load import shipped

    shipped_recipes = [(path, first_comment(path)) for path in shipped()]
    if as_json:
        print_json({"recipes": [{"path": str(path), "about": about} for path, about in shipped_recipes]})
        return
    for path, about in shipped_recipes:
        click.echo(f"{path}  {about}")

"""`finetune layers`: the layer groups of a backbone, which name what to freeze and unfreeze."""

from __future__ import annotations

import click

from finetune.cli.options import json_flag, print_json


@click.command()
@click.argument("backbone")
@click.option(
    "--classes", default=2, show_default=True, type=click.IntRange(2), help="Number of classes of the new head."
)
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

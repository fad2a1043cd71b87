"""`finetune plan`: which layers learn from which epoch and at what rate, and what the feature cache will hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune.cli.options import json_flag, print_json, read_recipe, recipe_options, say_first
from finetune.cli.progress import reporting
from finetune.cli.signals import StopFlag, stop_on_signals
from finetune.files import visible

if TYPE_CHECKING:
    from finetune.classifier import Classifier
    from finetune.data.dataset import Dataset
    from finetune.recipe.schema import Recipe


@click.command()
@recipe_options
@json_flag
def plan(recipe: Path, as_json: bool, freeze: tuple[str, ...], **flags: Any) -> None:
    """Show, for each layer group and phase, whether it is frozen or its learning rate."""
    say_first(f"planning {visible(str(recipe))}")
    with stop_on_signals() as stop:
        show_plan(read_recipe(recipe, **flags), freeze, as_json, stop, scan=False)


def show_plan(recipe: Recipe, freeze: tuple[str, ...], as_json: bool, stop: StopFlag, scan: bool) -> None:
    """Print the plan of a resolved recipe, and what of its work will be done once; with `scan` the images are read."""
    from finetune.classifier import Classifier
    from finetune.data.source import outline
    from finetune.report.tables import plan_text
    from finetune.story.images import class_names, read_images
    from finetune.story.preflight import preflight_classifier
    from finetune.train.state import patience_note

    with reporting(stop) as reporter:
        early = preflight_classifier(recipe, freeze) if scan else None
        data = read_images(recipe, reporter, draw=False) if scan else outline(**_source(recipe))
        classes = data.classes if data is not None else class_names(recipe)
        known = early is not None and early.classes == classes
        classifier = early if early and known else Classifier.from_recipe(recipe, classes, freeze)
        plan = classifier.plan(**recipe.train.model_dump())
        patience = patience_note(recipe.train.early_stop, recipe.train.select, len(plan.phases))
        reporter.notes([*plan.warnings, *classifier.network.notes, *filter(None, [patience])])
        kept = [] if data is None else _kept(classifier, recipe, data)
    columns, rows = plan.table()
    learning = [sum(plan.parameters[name] for name in phase.learning) for phase in plan.phases]
    total = sum(plan.parameters.values())
    if as_json:
        figures = [figures for figures, _ in kept]
        print_json({"columns": columns, "rows": rows, "parameters": total, "learning": learning, "cache": figures})
        return
    click.echo(plan_text(columns, rows))
    counts = ", ".join(f"{count:,} in phase {index}" for index, count in enumerate(learning))
    click.echo(f"\n{total:,} parameters; learning: {counts}\n")
    for _, line in kept:
        click.echo(line)
    if not kept:
        click.echo("what will be kept of the work on frozen layers shows once the images are there")


def _source(recipe: Recipe) -> dict[str, Any]:
    from finetune.data.wanted import Wanted

    section = recipe.data
    folder = None if section.folder is None else Path(section.folder)
    wanted = Wanted.of(section.model_dump())
    return {"source": section.source, "folder": folder, "wanted": wanted, "positive": section.positive}


def _kept(classifier: Classifier, recipe: Recipe, data: Dataset) -> list[tuple[dict[str, Any], str]]:
    """What the cache will hold in each phase, in figures and as a line for people."""
    from finetune.train.preview import preview

    section = recipe.data
    trainer = classifier.trainer(data, recipe.train, augment=section.augment, class_weights=section.class_weights)
    return [(decision.as_dict(), decision.describe()) for decision in preview(trainer)]

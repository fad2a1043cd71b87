"""Before anything is trained: `finetune plan`, `finetune check`, `finetune init`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune.cli.options import json_flag, print_json, read_recipe, recipe_options
from finetune.cli.progress import watching
from finetune.cli.signals import StopFlag, stop_on_signals
from finetune.errors import DataError, UsageError
from finetune.files import visible, write_text

if TYPE_CHECKING:
    from finetune.classifier import Classifier
    from finetune.data.audit import Finding
    from finetune.data.folder import Dataset
    from finetune.recipe.schema import Recipe


@click.command()
@recipe_options
@json_flag
def plan(recipe: Path, as_json: bool, freeze: tuple[str, ...], **flags: Any) -> None:
    """Show, for each layer group and phase, whether it is frozen or its learning rate."""
    with stop_on_signals() as stop:
        show_plan(read_recipe(recipe, **flags), freeze, as_json, stop, scan=False)


def show_plan(recipe: Recipe, freeze: tuple[str, ...], as_json: bool, stop: StopFlag, scan: bool) -> None:
    """Print the plan of a resolved recipe, and what of its work will be done once; with `scan` the images are read."""
    from finetune.classifier import Classifier
    from finetune.data.source import outline
    from finetune.report.tables import plan_text
    from finetune.run import class_names, read_data

    with watching(stop) as watch:
        data = read_data(recipe, watch, draw=False) if scan else outline(**_source(recipe))
        classes = data.classes if data is not None else class_names(recipe)
        classifier = Classifier.from_recipe(recipe, classes, freeze)
        found = classifier.plan(**recipe.train.model_dump())
        watch.notes([*found.warnings, *classifier.network.notes])
        kept = [] if data is None else _kept(classifier, recipe, data)
    columns, rows = found.table()
    learning = [sum(found.parameters[name] for name in phase.learning) for phase in found.phases]
    total = sum(found.parameters.values())
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
    section = recipe.data
    folder = None if section.folder is None else Path(section.folder)
    named = {"classes": section.classes, "positive": section.positive}
    return {"source": section.source, "folder": folder, **named, **section.split.model_dump()}


def _kept(classifier: Classifier, recipe: Recipe, data: Dataset) -> list[tuple[dict[str, Any], str]]:
    """What the cache will hold in each phase, in figures and as a line for people."""
    from finetune.train.outlook import outlook

    section = recipe.data
    trainer = classifier.trainer(data, recipe.train, augment=section.augment, class_weights=section.class_weights)
    return [(inputs.as_dict(), inputs.describe()) for inputs in outlook(trainer)]


@click.command()
@click.argument("what", metavar="RECIPE|FOLDER", type=click.Path(path_type=Path))
@click.option("-o", "overrides", metavar="KEY=VALUE", multiple=True, help="Replace the value of a recipe's key.")
@click.option("--strict", is_flag=True, help="Any finding but a note ends with exit code 3.")
@json_flag
def check(what: Path, overrides: tuple[str, ...], strict: bool, as_json: bool) -> None:
    """Audit a recipe and its images, or a folder of images; nothing is trained or written."""
    with stop_on_signals() as stop:
        folder, classes, fractions, skip = what, None, (0.15, 0.15, 0), False
        if not what.is_dir():
            recipe = read_recipe(what, overrides, (), None, None, None)
            split = recipe.data.split
            if recipe.data.folder is None or recipe.data.source != "folder":
                return _check_source(recipe, as_json, stop)
            folder, classes = Path(recipe.data.folder), recipe.data.classes
            fractions, skip = (split.val, split.test, split.seed), recipe.data.on_bad == "skip"
            if recipe.data.sample and not folder.exists():
                click.echo(f"{what}: in order; {folder} will be drawn when it is run", err=True)
                return
        findings, summary = _audit(folder, classes, fractions, stop)
    _show_findings(findings, summary, as_json)
    graves = [
        finding
        for finding in findings
        if finding.severity == "error"
        or (finding.kind == "unreadable" and not skip)
        or (strict and finding.severity != "note")
    ]
    if graves:
        raise DataError([finding.message for finding in graves], "mend the folder, or see data.on_bad and data.classes")


def _check_source(recipe: Recipe, as_json: bool, stop: StopFlag) -> None:
    """Read images that are no folder; whatever is wrong with them is raised."""
    from finetune.run import read_data

    with watching(stop) as watch:
        data = read_data(recipe, watch)
    counts = {name: int((data.table["class"] == name).sum()) for name in data.classes}
    summary = {"folder": str(data.root), "images": len(data.table), "classes": counts, "notes": data.notes}
    _show_findings([], summary, as_json)


def _audit(
    folder: Path, classes: tuple[str, ...] | None, fractions: tuple[float, float, int], stop: StopFlag
) -> tuple[list[Finding], dict[str, Any]]:
    from finetune.data.audit import audit
    from finetune.data.scan import scan
    from finetune.data.split import split

    with watching(stop) as watch:
        found = scan(folder, classes, "skip", watch.reading("reading images", "reading the images"))
    findings = audit(found)
    if not found.split_layout and not any(finding.severity == "error" for finding in findings):
        findings = audit(found, split(found.table, *fractions))
    counts = {name: int((found.table["class"] == name).sum()) for name in found.classes}
    return findings, {"folder": str(found.root), "images": len(found.table), "classes": counts, "notes": found.notes}


def _show_findings(findings: list[Finding], summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        listed = [{"kind": f.kind, "severity": f.severity, "message": f.message} for f in findings]
        print_json({**summary, "findings": listed})
        return
    counts = ", ".join(f"{visible(name)} {count}" for name, count in summary["classes"].items())
    click.echo(f"{visible(summary['folder'])}: {summary['images']:,} images of {len(summary['classes'])} classes")
    click.echo(f"  {counts}")
    for note in summary["notes"]:
        click.echo(f"note: {visible(note)}")
    for finding in findings:
        click.echo(f"{finding.severity}: {visible(finding.message)}")
    if not any(finding.severity != "note" for finding in findings):
        click.echo("nothing found that is in the way")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The recipe to write [NAME.yaml, after the folder].")
@click.option("--backbone", default="timm/mobilenetv2_100", show_default=True, help="What to start from.")
def init(folder: Path, out: Path | None, backbone: str) -> None:
    """Write a commented recipe for FOLDER, which has one folder of images per class."""
    from finetune.data.listing import list_folder
    from finetune.recipe.template import commented

    if not folder.is_dir():
        raise DataError(f"{visible(str(folder))}: no such folder", "give a folder with one folder of images per class")
    listing = list_folder(folder.resolve(), None)
    classes = sorted(listing.folders["train" if listing.split_layout else ""])
    target = out or Path(f"{folder.resolve().name}.yaml")
    if target.exists():
        raise UsageError(f"{visible(str(target))}: is there already", "give another name with --out")
    write_text(target, commented(str(folder), folder.resolve().name, classes, len(listing.samples), backbone))
    click.echo(target)
    click.echo(f"look it over, then: finetune check {target}; finetune run {target}", err=True)

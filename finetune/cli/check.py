"""`finetune check`: a recipe and its images looked through, nothing trained."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune.cli.options import json_flag, print_json, read_recipe, say_first
from finetune.cli.progress import reporting
from finetune.cli.signals import StopFlag, stop_on_signals
from finetune.errors import DataError, UsageError
from finetune.files import visible

if TYPE_CHECKING:
    import pandas as pd

    from finetune.data.audit import Finding
    from finetune.data.scan import Scan
    from finetune.recipe.schema import Recipe
    from finetune.runs.reporter import Reporter


@click.command()
@click.argument("what", metavar="RECIPE|FOLDER", type=click.Path(path_type=Path))
@click.option(
    "-o", "overrides", metavar="KEY=VALUE", multiple=True, help="Set a recipe key, for example -o data.on_bad=skip."
)
@click.option("--strict", is_flag=True, help="Exit code 3 on any finding except notes.")
@click.option("--deep", is_flag=True, help="Also look at the images: near-duplicates, groups, wrong labels, outliers.")
@click.option(
    "--fix", type=click.Path(path_type=Path), metavar="DIR", help="With --deep: write proposal.csv and check.html."
)
@json_flag
def check(what: Path, overrides: tuple[str, ...], strict: bool, deep: bool, fix: Path | None, as_json: bool) -> None:
    """Audit a recipe and its images, or a folder of images; nothing is trained, and no image is ever changed."""
    say_first(f"checking {visible(str(what))}")
    from finetune.data.audit import audit_folder, blocking
    from finetune.data.crop import hidden_by_crop
    from finetune.data.output_paths import require_outside
    from finetune.data.wanted import Wanted

    with stop_on_signals() as stop:
        recipe = _recipe_of(what, overrides)
        section = recipe.data
        if section.folder is None or section.source != "folder":
            return _check_source(recipe, as_json, stop)
        folder, wanted = Path(section.folder), Wanted.of(section.model_dump())
        if fix is not None:
            require_outside(fix, folder, "fix")
            if not deep:
                raise UsageError("--fix: proposes what --deep finds", "add --deep")
        if section.sample and not folder.exists():
            click.echo(f"{what}: recipe OK; the sample {folder} will be written when it is run", err=True)
            return
        with reporting(stop) as reporter:
            scanned, findings = audit_folder(folder, wanted, reporter.reading("reading images", "reading the images"))
            sound = not any(finding.severity == "error" for finding in findings)
            whole = sound and not any(finding.kind == "unreadable" for finding in findings)
            cropped = list(hidden_by_crop(scanned.root, scanned.table)) if whole else []
            # the mode is asked for last: a network's own takes seconds and a GB of memory to look up
            if cropped and _crop_mode(recipe) == "center":
                findings += cropped
            if deep and sound:
                findings += _deep(scanned, recipe, reporter)
    if fix is not None:
        from finetune.deliver.audit import write_proposal

        click.echo(f"{write_proposal(fix, findings, str(folder))}: the findings with their pictures", err=True)
    graves = blocking(findings, strict=strict, skip_unreadable=section.on_bad == "skip")
    problem = None
    if graves:
        remedy = "fix the folder, or see data.on_bad and data.classes"
        problem = DataError([finding.message for finding in graves], remedy)
    summary = summary_of(scanned.root, scanned.table, scanned.classes, scanned.notes)
    if as_json:
        print_json({**summary, "findings": listed(findings)}, problem)
    else:
        _show_findings([finding for finding in findings if finding not in graves], summary)
    if problem is not None:
        raise problem


def _deep(scanned: Scan, recipe: Recipe, reporter: Reporter) -> list[Finding]:
    """Findings on the pictures themselves, by features of the recipe's network, or of the best available one."""
    from finetune.data.decode import Decoding
    from finetune.deliver.audit import deep_audit
    from finetune.device import choose
    from finetune.model.backbones import build

    learned = recipe.model.weights != "none" and not recipe.model.backbone.startswith("small/")
    network = build(recipe.model.backbone if learned else "auto", scanned.classes)
    compute = choose(recipe.train.device, "fp32", convolutional=network.convolutional, light=network.light)
    decoding = Decoding(scanned.range, recipe.data.max_megapixels)
    tick = reporter.reading("looking at images", "looking at the images")
    return deep_audit(scanned, network, compute, decoding, tick)


def _recipe_of(what: Path, overrides: tuple[str, ...]) -> Recipe:
    """The recipe that is checked; of a folder, one with all defaults."""
    from finetune.recipe.load import from_mapping, resolve

    if not what.is_dir():
        return read_recipe(what, overrides, (), None, None, None)
    plain = {"data": {"folder": str(what)}, "model": {"backbone": "auto"}}
    return resolve(from_mapping(plain, str(what), overrides), Path.cwd())


def _crop_mode(recipe: Recipe) -> str:
    """What becomes of the ends of long pictures: as the recipe says, else as the network's weights do."""
    chosen = recipe.model.preprocess.crop_mode
    if chosen is None and recipe.model.backbone != "auto" and not recipe.model.backbone.startswith("small/"):
        from finetune.model.backbones import preprocess_of

        chosen = preprocess_of(recipe.model.backbone).get("crop_mode")
    return chosen or "center"


def _check_source(recipe: Recipe, as_json: bool, stop: StopFlag) -> None:
    """Read images that are no folder; whatever is wrong with them is raised."""
    from finetune.story.images import read_images

    with reporting(stop) as reporter:
        data = read_images(recipe, reporter)
    summary = summary_of(data.root, data.table, data.classes, data.notes)
    if as_json:
        print_json({**summary, "findings": []})
    else:
        _show_findings([], summary)


def summary_of(root: Path, table: pd.DataFrame, classes: list[str], notes: list[str]) -> dict[str, Any]:
    """Where the images lie, and how many there are of each class."""
    counts = {name: int((table["class"] == name).sum()) for name in classes}
    return {"folder": str(root), "images": len(table), "classes": counts, "notes": notes}


def listed(findings: list[Finding]) -> list[dict[str, Any]]:
    """The findings for a program."""
    return [{**asdict(finding), "paths": list(finding.paths)} for finding in findings]


def _show_findings(findings: list[Finding], summary: dict[str, Any]) -> None:
    counts = ", ".join(f"{visible(name)} {count}" for name, count in summary["classes"].items())
    click.echo(f"{visible(summary['folder'])}: {summary['images']:,} images of {len(summary['classes'])} classes")
    click.echo(f"  {counts}")
    for note in summary["notes"]:
        click.echo(f"note: {visible(note)}")
    for finding in findings:
        click.echo(f"{finding.severity}: {visible(finding.message)}")
    if not any(finding.severity != "note" for finding in findings):
        click.echo("nothing found that is in the way")

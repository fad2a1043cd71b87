"""From a recipe's `data` section to images."""

from __future__ import annotations

from pathlib import Path

from finetune.data.dataset import Dataset
from finetune.data.samples.catalogue import ABOUT, write_sample
from finetune.data.source import class_names as names_of
from finetune.data.source import read_source
from finetune.data.wanted import Wanted
from finetune.errors import setting
from finetune.recipe.schema import Recipe
from finetune.runs.reporter import Reporter


def read_images(recipe: Recipe, reporter: Reporter, draw: bool = True) -> Dataset:
    """The recipe's images with their split.

    Args:
        recipe: resolved.
        reporter: takes messages and progress.
        draw: write the sample that the recipe names, where its folder is not there yet.
    """
    section, folder = recipe.data, None if recipe.data.folder is None else Path(recipe.data.folder)
    if draw and section.sample is not None and folder is not None and not folder.exists():
        reporter.say(f"{folder} does not exist: writing the sample '{section.sample}' into it. {ABOUT[section.sample]}")
        reporter.say(f"For your own photographs: one folder per class, {setting('data.folder', 'FOLDER')}")
        write_sample(section.sample, folder)
    data = read_source(
        section.source,
        folder,
        Wanted.of(section.model_dump()),
        section.positive,
        tick=reporter.reading("reading images", "reading the images; nothing to save yet"),
        workers=section.workers,
    )
    reporter.notes([*data.notes, *data.left_out, *data.warnings])
    parts = [f"{len(part)} {name}" for name, part in data.parts()]
    reporter.say(f"{len(data.table)} images of {len(data.classes)} classes: {', '.join(parts)}")
    return data


def class_names(recipe: Recipe) -> list[str]:
    """The classes of the recipe's images, without reading one."""
    section, folder = recipe.data, None if recipe.data.folder is None else Path(recipe.data.folder)
    return names_of(section.source, folder, Wanted.of(section.model_dump()), section.positive, section.sample)

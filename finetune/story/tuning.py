"""`--tune`: what it comes to for a recipe and the images that are there; all of it without torch."""

from __future__ import annotations

from pathlib import Path

from finetune.data.listing import list_folder
from finetune.errors import FinetuneError
from finetune.recipe.flags import tuning_overrides
from finetune.recipe.schema import Recipe


def tuning(recipe: Recipe) -> list[str]:
    """`--tune` as the KEY=VALUE it stands for; the more images there are, the fewer epochs.

    Args:
        recipe: as it is without the flag.

    Raises:
        UsageError: the recipe says itself what learns besides the head.
    """
    return tuning_overrides(recipe, _images(recipe))


def _images(recipe: Recipe) -> int:
    """How many images the folder of a recipe has; 0 where that is not known yet, as of a sample to be drawn."""
    folder = None if recipe.data.folder is None else Path(recipe.data.folder).expanduser()
    if recipe.data.source != "folder" or folder is None or not folder.is_dir():
        return 0
    try:
        return len(list_folder(folder.resolve(), recipe.data.classes).samples)
    except FinetuneError:
        return 0  # what is wrong with the folder, reading the images says

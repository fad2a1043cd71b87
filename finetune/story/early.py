"""The network before a picture is read, so that a typo in a name, a pattern or a path of weights shows at once."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.classifier import Classifier
from finetune.errors import FinetuneError
from finetune.recipe.schema import Recipe
from finetune.runs.record import RunRecord
from finetune.story.images import class_names


def network_early(recipe: Recipe, freeze: Sequence[str], run: RunRecord | None = None) -> Classifier | None:
    """The classifier that the recipe describes, its plan checked, with the classes as the folder names them.

    Args:
        recipe: resolved.
        freeze: layer patterns that never learn.
        run: that goes on, whose checkpoint will bring the weights.

    Returns:
        None where the classes are not known by looking at the folder; what is wrong with it, reading the images says.
    """
    try:
        classes = class_names(recipe)
    except FinetuneError:
        return None
    if len(classes) < 2:
        return None
    classifier = Classifier.from_recipe(recipe, classes, freeze, run=run)
    classifier.plan(**recipe.train.model_dump())
    return classifier

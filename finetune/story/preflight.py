"""Builds the network before any image is read, so that a typo in a name, a pattern or a path shows at once."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.classifier import Classifier
from finetune.errors import FinetuneError
from finetune.recipe.schema import Recipe
from finetune.runs.record import RunRecord
from finetune.story.images import class_names


def preflight_classifier(recipe: Recipe, freeze: Sequence[str], run: RunRecord | None = None) -> Classifier | None:
    """Build the classifier that the recipe describes, with the classes as the folder names them, and check its plan.

    Args:
        recipe: resolved.
        freeze: layer patterns that never learn.
        run: the record of a run that is resumed: its checkpoint brings the weights.

    Returns:
        None where folder names do not tell the classes. No error then: reading the images says what is wrong.
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

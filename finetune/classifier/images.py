"""The images that scripts give to a classifier, and the keys of `data` that `fit` takes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from finetune.classifier.accept import path_of
from finetune.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from finetune.data.dataset import Dataset, ImageSet
    from finetune.device import Compute
    from finetune.evaluate.metrics import Metrics
    from finetune.model.network import Network

CHOICES = {"augment": ("none", "light", "strong"), "class_weights": ("none", "balanced")}


def checked_data_keys(**given: object) -> dict[str, str]:
    """`augment` and `class_weights`, which must be among their choices.

    Raises:
        UsageError: one is not.
    """
    for name, value in given.items():
        if value not in CHOICES[name]:
            near = did_you_mean(str(value), CHOICES[name])
            raise UsageError(f"{name}: {value!r} is not a choice{near}", f"give {' or '.join(CHOICES[name])}")
    return {name: str(value) for name, value in given.items()}


def labelled_images(images: ImageSet | Dataset | str | os.PathLike[str]) -> ImageSet:
    """The images to evaluate on.

    Raises:
        UsageError: a data set without test images, or no images at all. DataError: a folder that is not usable.
    """
    from finetune.data.dataset import Dataset, ImageSet
    from finetune.data.folder import ImageFolder

    if isinstance(images, ImageSet):
        return images
    if isinstance(images, Dataset):
        if images.test is None:  # the other parts have been learned from, or have chosen the epoch
            remedy = "split some off with ImageFolder(…).split(test=0.15), or evaluate(data.val), which flatters"
            raise UsageError(f"images: {images!r} has no test images", remedy)
        return images.test
    if images is None:
        remedy = "split some off with ImageFolder(…).split(test=0.15), or evaluate(data.val), which flatters"
        raise UsageError("images: None, as data.test is where there are no test images", remedy)
    folder = images if isinstance(images, ImageFolder) else ImageFolder(path_of(images, "images"))
    return ImageSet(folder.root, folder.table, folder.classes)


def evaluate_images(network: Network, images: ImageSet, compute: Compute) -> Metrics:
    """Metrics of a network on labelled images, whose labels are matched by name.

    Raises:
        DataError: the images have a class that the network does not know.
    """
    from finetune.data.batches import load_images
    from finetune.data.dataset import ImageSet
    from finetune.evaluate.evaluation import evaluate_images

    relabelled = ImageSet(images.root, images.table, network.classes, images.pixels)
    return evaluate_images(network, load_images(relabelled, network.preprocess), compute, loss=network.loss).metrics

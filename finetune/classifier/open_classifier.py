"""A classifier out of what a run has left."""

from __future__ import annotations

import os

from finetune.classifier import accept
from finetune.classifier.classifier import Classifier


def load(folder: str | os.PathLike[str]) -> Classifier:
    """The classifier of a model bundle, a run (the best checkpoint of one that was stopped), or a run's checkpoint.

    Raises:
        UsageError: there is none. ArtefactError: it is broken or of a newer version.
    """
    from finetune.deliver.open_network import open_network

    return Classifier.of(open_network(accept.path_of(folder, "folder")))

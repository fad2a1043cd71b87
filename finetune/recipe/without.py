"""The recipe of `finetune run FOLDER`, where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def recipe_values(folder: Path, backbone: str = "auto") -> dict[str, Any]:
    """The recipe of a folder of images, as a mapping.

    The best network at hand stays frozen, and a head is solved on what it makes of the images: from a few hundred of
    them that was the best classifier on most folders, in seconds (docs/log/head.md). Balanced weights change nothing
    where classes have equally many images, and help rare ones. `finetune init` writes the same.

    Args:
        folder: class folders, or split folders with class folders in them.
        backbone: what to start from; auto is the best that is at hand.
    """
    return {
        "data": {"folder": str(folder), "augment": "none", "class_weights": "balanced"},
        "model": {"backbone": backbone, "features": "auto", "unfreeze": {"head": 0}},
        "train": {"optimizer": "auto"},
    }

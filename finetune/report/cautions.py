"""Cautions on a headline figure, shown beside it on the page and in the terminal alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

EVALUATED_ON = {
    "test": "test images, never seen in training",
    "val": "validation images, which also chose the epoch",
    "train": "training images, from which the network learned",
    "out_of_fold": "training and validation images, each evaluated by a head that had not learned from it",
}
"""The split that was evaluated → what its images are."""


def evaluated_on(split: str) -> str:
    """The evaluated images in words; a name that is no split is that of a folder."""
    return EVALUATED_ON.get(split, f"images of {split}")


def cautions(table: pd.DataFrame, split: str, training: pd.DataFrame | None = None) -> list[str]:
    """Reasons why the figures may promise too much, one sentence each, gravest first.

    Args:
        table: of all images as in `data.csv`, or of the evaluated ones where `training` is given.
        split: what was evaluated.
        training: the images that a run was trained and selected by, if they are not in `table`.
    """
    found = []
    if split == "val":
        found.append(
            "There was no test split: these validation images also chose the epoch and the temperature, so the figures "
            "flatter. Set images aside that have no say (data.split, or a test/ folder)"
        )
    if split == "train":
        found.append("The network learned from these images: the figures say nothing about others")
    if "sha256" not in table or "split" not in table:
        return found
    evaluated = table if training is not None else table[table["split"] == split]
    learned = table[table["split"] == "train"] if training is None else training
    if split not in ("train", "out_of_fold") and len(evaluated):
        seen = int(evaluated["sha256"].isin(set(learned["sha256"])).sum())
        if seen:
            known = "training images" if training is None else "training or validation images of the run"
            found.append(
                f"Leak: {seen:,} of these {len(evaluated):,} images are also among the {known} (same content), "
                "so the figures flatter. Remove one of each pair"
            )
    everything = table if training is None else evaluated
    torn = everything.groupby("sha256")["class"].nunique()
    doubtful = int(evaluated["sha256"].isin(set(torn[torn > 1].index)).sum())
    if doubtful:
        found.append(
            f"{doubtful:,} of these {len(evaluated):,} images are in more than one class (same content): one of the "
            "labels is wrong, and so is any answer"
        )
    return found

"""Out-of-fold answers of a solved head, and their entries in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class OutOfFold:
    """The answers of a solved head to the training images and then those of validation, out of fold.

    Attributes:
        logits: float32 [N, classes].
        sizes: how many images the heads behind each row of `by_size` learned from, rising; empty without such heads.
        by_size: int64 [len(sizes), N], the class that each image was given; the last row is that of `logits`.
        random: int64 [N], the class that each image was given where others of its group were learned from, as after a
            random split; None where there are no groups.
    """

    logits: np.ndarray
    sizes: Sequence[int] = ()
    by_size: np.ndarray | None = None
    random: np.ndarray | None = None


@dataclass(frozen=True)
class SpareHead:
    """A solved head that is kept aside until a gate chooses: of training and validation images.

    Attributes:
        weight: float32 [classes, features], of the columns from the right that it reads.
        bias: float32 [classes].
        out_of_fold: its answers.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    out_of_fold: OutOfFold


def checkpoint_entries(answers: OutOfFold | None) -> dict[str, Any]:
    """The entries of a checkpoint that hold these answers."""
    if answers is None:
        return {}
    content: dict[str, Any] = {"out_of_fold": torch.from_numpy(answers.logits)}
    if answers.by_size is not None:
        content["learning_curve"] = {"sizes": list(answers.sizes), "answers": torch.from_numpy(answers.by_size)}
    if answers.random is not None:
        content["random_split"] = torch.from_numpy(answers.random)
    return content


def from_checkpoint(checkpoint: Mapping[str, Any]) -> OutOfFold | None:
    """The answers that a checkpoint holds, if any."""
    if (logits := checkpoint.get("out_of_fold")) is None:
        return None
    random = checkpoint.get("random_split")
    answers = OutOfFold(np.asarray(logits), random=None if random is None else np.asarray(random))
    if (curve := checkpoint.get("learning_curve")) is None:
        return answers
    return replace(answers, sizes=curve["sizes"], by_size=np.asarray(curve["answers"]))


def spare_entries(spare: SpareHead | None) -> dict[str, Any]:
    """The entries of a checkpoint that hold a head that is kept aside."""
    if spare is None:
        return {}
    return {"spare_head": {"weight": spare.weight, "bias": spare.bias, **checkpoint_entries(spare.out_of_fold)}}


def spare_from_checkpoint(checkpoint: Mapping[str, Any]) -> SpareHead | None:
    """The head that a checkpoint keeps aside, if any."""
    content = checkpoint.get("spare_head")
    answers = from_checkpoint(content or {})
    return None if content is None or answers is None else SpareHead(content["weight"], content["bias"], answers)

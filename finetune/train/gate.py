"""The gate: a run that trains on after a solved head keeps the better of both, by a paired test.

The two candidates are what the run could leave behind. The solved one is the head of all training and validation
images on the network as it came; the tuned one is the network after its last epoch, which learned from training images
alone. Both are asked about the validation images, and neither has learned from those that it answers: the solved head
answers them out of fold. No epoch is chosen by them either, so the test is out of sample for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from finetune.errors import UsageError, called, setting
from finetune.evaluate.compare import compare_answers
from finetune.evaluate.metrics import epoch_metrics
from finetune.model.network import Network
from finetune.train.out_of_fold import SpareHead
from finetune.train.solve import put_head

FEWEST = 10
"""Validation images below which hardly anything can be told: five that only the tuned network gets right are p 0.06."""

SURE = 0.05
"""Probability of a difference like this by chance, from which on the solved head is kept: it is simpler, exact, and the
default that was measured to be best on most folders."""

SOLVED, TUNED = "solved", "tuned"


def require_enough(images: int) -> None:
    """Refuse a gate with so few validation images that it could only ever say one thing.

    Raises:
        UsageError: there are fewer than `FEWEST`.
    """
    if images < FEWEST:
        raise UsageError(
            f"train.gate: {images} validation images cannot tell a tuned network from a solved head, "
            f"it takes {FEWEST} at least",
            f"leave out {called('--tune', 'the gate')} (train.gate: none), or set more images aside, as with "
            f"{setting('data.split.val', 0.3)}",
        )


def decide(labels: np.ndarray, solved: np.ndarray, tuned: np.ndarray) -> dict[str, Any]:
    """Which of two candidates is kept, and why, as plain numbers.

    Args:
        labels: int64 [N], of the validation images.
        solved: float32 [N, classes], logits of the solved head, out of fold.
        tuned: float32 [N, classes], of the tuned network.

    Returns:
        `kept` (solved or tuned), `images`, the `accuracy`, `macro_f1` and `loss` of each, `difference` (tuned minus
        solved, with 95 % intervals), `p` of McNemar's exact test, `only_solved` and `only_tuned` (images on which one
        alone is right).
    """
    first, second = (logits.argmax(axis=1)[None] for logits in (solved, tuned))
    found = compare_answers(labels, first, second, solved.shape[1])
    better = found.macro_f1 > 0 and found.accuracy > 0 and found.p < SURE and bool(np.isfinite(tuned).all())
    return {
        "kept": TUNED if better else SOLVED,
        "images": len(labels),
        SOLVED: _figures(labels, solved),
        TUNED: _figures(labels, tuned),
        "difference": {
            "accuracy": found.accuracy,
            "accuracy_ci95": list(found.accuracy_ci95),
            "macro_f1": found.macro_f1,
            "macro_f1_ci95": list(found.macro_f1_ci95),
        },
        "p": found.p,
        "only_solved": found.only_first,
        "only_tuned": found.only_second,
    }


def _figures(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    return {name.removeprefix("val_"): float(value) for name, value in epoch_metrics(labels, logits).items()}


def go_back(network: Network, spare: SpareHead, state: Mapping[str, torch.Tensor]) -> None:
    """Make the network what it was before it was tuned, with the head of training and validation images.

    That head, and not the one that tuning began from: it is what the same run without tuning leaves behind, and it was
    measured 1.5 to 2.7 points better than one of the training images alone. Its figures stay honest: those of a test
    split are of images that nothing here has seen, and without one they are its answers out of fold.

    Args:
        network: changed in place.
        spare: the head.
        state: the weights after the phase in which the head was solved.
    """
    network.module.load_state_dict(state)
    layer = network.module.get_submodule(network.head)
    assert isinstance(layer, torch.nn.Linear)  # it has been solved
    put_head(layer, spare.weight, spare.bias)

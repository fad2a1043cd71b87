"""Does an export answer as the trained network does? Asked on real files before anything is published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finetune.deliver.export.samples import Samples
from finetune.errors import ArtefactError
from finetune.files import visible

LOGITS = 1e-4
"""Largest difference of logits, as a share of the largest logit where that is above 1: sums in another order."""

PROBABILITIES = 0.05
"""Largest difference of a probability, where the pictures are decoded and resized by somebody else."""

CLOSE = 0.02
"""Two classes whose probabilities are closer may change places."""

SHOWN = 5
"""Pictures that are named."""


@dataclass(frozen=True)
class Parity:
    """How two sets of answers differ.

    Attributes:
        what: which file was tried, and how.
        pictures: how many, and which.
        n: how many.
        largest: difference, of logits or probabilities.
        limit: of `largest`.
        mean: difference.
        flips: pictures whose label changed, with both labels and how close they were.
        allowed_flips: those of `flips` between classes closer than `CLOSE`.
        worst: the pictures that differ most, and by how much.
        failed: why it is not published; None where it may be.
    """

    what: str
    pictures: str
    n: int
    largest: float
    limit: float
    mean: float
    flips: list[dict[str, Any]] = field(default_factory=list)
    allowed_flips: int = 0
    worst: list[tuple[str, float]] = field(default_factory=list)
    failed: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As `export.json` holds it."""
        return {
            "pictures": self.pictures,
            "n": self.n,
            "largest_difference": self.largest,
            "limit": self.limit,
            "mean_difference": self.mean,
            "flips": self.flips,
            "worst": [{"image": name, "difference": value} for name, value in self.worst],
        }

    def line(self) -> str:
        """One line for people."""
        changed = f"{len(self.flips)} labels differ" if self.flips else "no label differs"
        return f"{self.what}: {changed}, largest difference {self.largest:.2g} ({self.pictures})"


def compare_logits(what: str, samples: Samples, answer: Callable[[np.ndarray], np.ndarray]) -> Parity:
    """Compare logits on the very pixels that the network saw.

    Args:
        what: is tried.
        samples: with the network's own logits.
        answer: from prepared pixels, float32 [N, C, H, W], to logits [N, classes].
    """
    rows = [answer(samples.inputs(at)) for at in samples.batches()]
    got = np.concatenate(rows) if rows else samples.logits
    limit = LOGITS * max(1.0, float(np.abs(samples.logits).max(initial=0.0)))
    return _compared(what, samples, samples.logits, got, limit, 0.0)


def compare_answers(what: str, samples: Samples, answer: Callable[[np.ndarray], np.ndarray]) -> Parity:
    """Compare probabilities on whole pictures, from the file on.

    Args:
        what: is tried.
        samples: with the network's own probabilities.
        answer: from a picture, uint8 [height, width, 3], to probabilities [classes].
    """
    got = np.stack([answer(samples.rgb(at)) for at in range(len(samples))]) if len(samples) else samples.probabilities
    return _compared(what, samples, samples.probabilities, got, PROBABILITIES, CLOSE)


def require(parities: list[Parity]) -> None:
    """Refuse to publish what answers differently.

    Raises:
        ArtefactError: with the pictures that differ most.
    """
    problems = []
    for parity in parities:
        if parity.failed:
            named = ", ".join(f"{visible(name)} ({value:.2g})" for name, value in parity.worst)
            problems.append(f"{parity.what}: {parity.failed}; it differs most on {named}")
    if problems:
        raise ArtefactError(
            problems, "nothing was published. Use another format (--to torch), and please report this network"
        )


def _compared(what: str, samples: Samples, expected: np.ndarray, got: np.ndarray, limit: float, close: float) -> Parity:
    difference = np.abs(got.astype(np.float64) - expected)
    difference[~np.isfinite(difference)] = np.inf
    each = difference.max(axis=1, initial=0.0)
    before, after = expected.argmax(axis=1), got.argmax(axis=1)
    flips = []
    for at in np.flatnonzero(before != after).tolist():
        gap = float(expected[at, before[at]] - expected[at, after[at]])
        names = (samples.classes[before[at]], samples.classes[after[at]])
        flips.append({"image": samples.names[at], "predict": names[0], "export": names[1], "apart": gap})
    wrong = [flip for flip in flips if flip["apart"] >= (close or limit)]
    worst = np.argsort(-each, kind="stable")[:SHOWN]
    largest = float(each.max(initial=0.0))
    failed = None
    if largest > limit:
        failed = f"differs from predict by {largest:.3g}, more than {limit:.3g}"
    elif wrong:
        failed = f"{len(wrong)} of {len(samples)} pictures get another label than from predict"
    return Parity(
        what=what,
        pictures=samples.about,
        n=len(samples),
        largest=largest,
        limit=limit,
        mean=float(difference.mean()) if difference.size else 0.0,
        flips=flips,
        allowed_flips=len(flips) - len(wrong),
        worst=[(samples.names[at], float(each[at])) for at in worst],
        failed=failed,
    )

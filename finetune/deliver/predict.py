"""The prediction for one image, and the files that a source names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.data.find import find_images
from finetune.data.picture_input import Picture, as_list
from finetune.data.walk import USUAL, Rules
from finetune.errors import UsageError
from finetune.files import read_json, visible
from finetune.runs.names import RunNames

if TYPE_CHECKING:
    from finetune.deliver.vectors.store import Neighbour
    from finetune.model.network import Network

BUNDLE, AUTO = "bundle", "auto"
"""Thresholds that a network brings along."""


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    Attributes:
        path: of the file; empty for a picture that has none.
        label: the most probable class; None where the file is no readable image, or where the network abstained.
        confidence: probability of the most probable class.
        probabilities: of every class, by name.
        error: why there is no answer.
        abstained: the confidence is below the threshold that was asked for.
        neighbours: the nearest images of a store, if one was asked.
    """

    path: str
    label: str | None = None
    confidence: float | None = None
    probabilities: dict[str, float] | None = None
    error: str | None = None
    abstained: bool = False
    neighbours: tuple[Neighbour, ...] = ()

    def __repr__(self) -> str:
        where = f"{visible(self.path)!r}, " if self.path else ""
        if self.error is not None:
            return f"Prediction({where}error: {visible(self.error)})"
        label = "no label" if self.label is None else repr(visible(self.label))
        sure = "" if self.confidence is None else f", {self.confidence:.4f}"
        return f"Prediction({where}{label}{sure}{', abstained' if self.abstained else ''})"

    def top(self, k: int) -> list[tuple[str, float]]:
        """The `k` most probable classes with their probabilities, the first of equals first."""
        return sorted((self.probabilities or {}).items(), key=lambda item: -item[1])[:k]


def pictures_of(source: Picture | Iterable[Picture]) -> Picture | list[Picture]:
    """The one picture that is meant, or the list of them: folders and globs are replaced by their files.

    Raises:
        DataError: paths that match nothing.
    """
    several = as_list(source)
    if several is None and isinstance(source, str | Path):
        files = find_images([source])
        return list(files) if Path(source).is_dir() or len(files) != 1 else files[0]
    if several is None:
        return source  # type: ignore[return-value]  # `as_list` has seen that it is one
    if all(isinstance(picture, str | Path) for picture in several):
        return list(find_images(several))
    return several


def threshold_of(network: Network, asked: float | str | None) -> float | None:
    """The confidence below which an answer is "not sure"; None where every answer is given.

    Args:
        network: with the thresholds that its bundle names.
        asked: a confidence; `BUNDLE`, the network's own, which is that of the recipe's `report.threshold`; `AUTO`, the
            lowest at which 95 % of the answers on validation were right; None for no threshold.

    Raises:
        UsageError: something else, or auto for a network that has none.
    """
    if asked is None or asked == BUNDLE:
        return None if asked is None else network.threshold
    if asked == AUTO and network.auto_threshold is None:
        why = "on validation, too few answers were right at any confidence, or none was looked for"
        raise UsageError(f"threshold: auto: this network has none ({why})", "give a number, for example 0.8")
    value = network.auto_threshold if asked == AUTO else asked
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UsageError(f"threshold: {value!r} is no confidence", "give a number from 0 to 1, bundle, auto or None")
    return float(value)


def rules_of(run: Path) -> Rules:
    """Which files below a folder are images, as the run's recipe has it; the usual rules for a model without a run."""
    record = RunNames(run).run_json
    if not record.is_file():
        return USUAL
    data = read_json(record).get("recipe", {}).get("data", {})
    extensions = data.get("extensions")
    return Rules(data.get("links", "follow"), None if extensions is None else tuple(extensions))

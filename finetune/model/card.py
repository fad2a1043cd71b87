"""The card beside a weights file: what the weights are, and how to use them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.data.preprocess import Preprocess
from finetune.errors import ArtefactError, UsageError, did_you_mean
from finetune.files import sha256_file
from finetune.model.installed import is_packaged, packaged_file, split_packaged
from finetune.model.rename import renamed, rule_problems
from finetune.model.weights import State, read_weights
from finetune.recipe.yaml import parse


@dataclass(frozen=True)
class Card:
    """A small YAML file; its fields are its keys.

    Attributes:
        path: the card itself.
        architecture: ``timm/NAME``, ``torchvision/NAME`` or ``small/NAME``.
        options: what the architecture is built with.
        weights: file name, relative to the card, or ``package:DISTRIBUTION/PATH``, a file inside an installed package;
            None for the architecture's published weights; ``none`` where the card only describes a network that has
            learned nothing yet.
        sha256: of the weights file.
        rename: rules from the names in the file to the architecture's, see `finetune.model.rename`.
        preprocess: size, mean, std, interpolation, crop: what differs from the architecture's own.
        classes: names in the order of the logits, where the weights include a head.
        licence: of the weights.
        source: where they come from.
        recipe: what they were trained by.
        data: what they were trained on.
        metrics: how good they are: name → value, with its interval and the images it is of.
        limits: what they are not good for.
    """

    path: Path
    architecture: str
    options: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    sha256: str | None = None
    rename: dict[str, Any] = field(default_factory=dict)
    preprocess: dict[str, Any] = field(default_factory=dict)
    classes: list[str] | None = None
    licence: str = ""
    source: str = ""
    recipe: str = ""
    data: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    limits: str = ""

    @property
    def has_weights(self) -> bool:
        """Whether the card names weights of its own."""
        return self.weights is not None and self.weights != "none"

    @property
    def weights_path(self) -> Path | None:
        """The weights file, or None where the card names none.

        Raises:
            ResourceError: it is in a package that is not installed.
            ArtefactError: the package has no such file.
        """
        if self.weights is None or not self.has_weights:
            return None
        return packaged_file(self.weights) if is_packaged(self.weights) else self.path.parent / self.weights

    def read(self) -> State:
        """The tensors of the weights file, checked against the hash and under the architecture's names.

        Raises:
            ResourceError, ArtefactError: see `weights_path`, `check_sha256`, `read_weights` and `renamed`.
        """
        path = self.weights_path
        if path is None:
            return {}
        self.check_sha256()
        return renamed(read_weights(path), self.rename, str(path))

    def check_sha256(self) -> None:
        """Compare the weights file with the hash in the card, if there is one.

        Raises:
            ArtefactError: the file is missing or is not the one that the card describes.
        """
        path = self.weights_path
        if path is None or self.sha256 is None:
            return
        if not path.is_file():
            raise ArtefactError(f"{path}: no such weights file (named in {self.path})", "put the file beside its card")
        digest = sha256_file(path)
        if digest != self.sha256.lower():
            raise ArtefactError(
                f"{path}: sha256 is {digest}, {self.path} says {self.sha256}",
                "the file is damaged or another one: get the right one, or correct the card if you made these weights",
            )


_KINDS: dict[str, tuple[type, str]] = {
    "architecture": (str, "text"),
    "options": (dict, "a mapping"),
    "weights": (str, "a file name"),
    "sha256": (str, "text"),
    "rename": (dict, "a mapping"),
    "preprocess": (dict, "a mapping"),
    "classes": (list, "a list"),
    "licence": (str, "text"),
    "source": (str, "text"),
    "recipe": (str, "text"),
    "data": (str, "text"),
    "metrics": (dict, "a mapping"),
    "limits": (str, "text"),
}


def read_card(path: Path) -> Card:
    """The card in a file.

    Raises:
        UsageError: no such file, or not a card; all problems at once.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UsageError(f"{path}: no card can be read there: {error.strerror}", "correct the path") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a card: not UTF-8 text", "give the .yaml file beside the weights") from error
    value = parse(text, str(path))
    if not isinstance(value, Mapping):
        raise UsageError(f"{path}: not a card", f"a card is a mapping with the keys {', '.join(_KINDS)}")
    problems = [f"{path}: {problem}" for problem in _problems(value)]
    if problems:
        raise UsageError(problems, f"the keys of a card are {', '.join(_KINDS)}; only architecture is required")
    return Card(path=path, **{key: item for key, item in value.items() if item is not None})


def _problems(value: Mapping[str, Any]) -> list[str]:
    problems = [f"{key}: unknown key{did_you_mean(str(key), _KINDS)}" for key in value if key not in _KINDS]
    for key, (kind, what) in _KINDS.items():
        if value.get(key) is not None and not isinstance(value[key], kind):
            problems.append(f"{key}: must be {what}, not {value[key]!r}")
    if value.get("architecture") is None:
        problems.append("architecture: missing")
    weights = value.get("weights")
    if isinstance(weights, str) and is_packaged(weights) and split_packaged(weights) is None:
        problems.append(f"weights: {weights!r}: a file in a package is package:DISTRIBUTION/PATH")
    if isinstance(rules := value.get("rename"), dict):
        problems += rule_problems(rules)
    if isinstance(preprocess := value.get("preprocess"), dict):
        try:
            given = {name: item for name, item in preprocess.items() if item is not None}
            Preprocess.from_dict({"size": 1, **given})  # where the card gives none, the architecture does
        except UsageError as error:
            problems += error.problems
    if isinstance(classes := value.get("classes"), list):
        problems += [f"classes: {name!r} is not text: quote it" for name in classes if not isinstance(name, str)]
    return problems

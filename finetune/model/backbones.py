"""From what a recipe calls a backbone to a network ready to be fine-tuned."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from finetune.carried import CARD_SUFFIXES, card_of
from finetune.errors import UsageError, setting
from finetune.files import sha256_file
from finetune.model import from_timm, from_torchvision
from finetune.model.architectures import LIBRARIES, assemble, split_name
from finetune.model.available import AUTO, choose_backbone
from finetune.model.bundle import Description, read_description, read_state
from finetune.model.card import Card, read_card
from finetune.model.fitting import load_backbone
from finetune.model.hub import local_path
from finetune.model.lineage import UNKNOWN, Base, licence_of, short_path
from finetune.model.network import HeadSpec, Network
from finetune.model.weights import State, read_noted


@dataclass(frozen=True)
class Origin:
    """The architecture, card or bundle that a backbone's name stands for, before anything is built."""

    architecture: str
    options: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    card: Card | None = None
    bundle: Description | None = None
    notes: Sequence[str] = ()

    @property
    def has_weights(self) -> bool:
        """Whether weights come with it."""
        return self.bundle is not None or (self.card is not None and self.card.has_weights)

    def weights(self) -> tuple[State, str] | None:
        """The weights that come with it, checked, and their name; None where the published ones are meant."""
        if self.card is not None and self.card.has_weights:
            return self.card.read(), str(self.card.weights_path)
        if self.bundle is not None:
            return read_state(self.bundle), str(self.bundle.folder)
        return None

    def base(self, name: str) -> Base | None:
        """The lineage of these weights; None for published ones."""
        if self.card is not None and self.card.weights_path is not None:
            sha256 = self.card.sha256 or sha256_file(self.card.weights_path)
            return Base(short_path(name), self.card.source, sha256, self.card.licence or UNKNOWN)
        if self.bundle is not None:
            before = Base.of(self.bundle.lineage.get("base"))
            licence = str(self.bundle.lineage.get("licence") or licence_of(before) or UNKNOWN)
            return Base(short_path(name), "a bundle of finetune's", self.bundle.sha256, licence, before)
        return None


def build(
    backbone: str,
    classes: Sequence[str],
    weights: str = "default",
    options: Mapping[str, Any] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    in_chans: int | None = None,
    head: HeadSpec = "linear",
    features: str = "last",
    seed: int = 0,
    load: bool = True,
) -> Network:
    """A network with a new head for `classes`, in eval mode on the CPU in float32.

    Args:
        backbone: ``auto`` (the best that is at hand), ``timm/NAME``, ``torchvision/NAME``, ``small/NAME``, a card
            (``FILE.yaml``), a model bundle, here or on the hub (``hf://OWNER/NAME``), or a run folder.
        classes: names, in the order of the logits.
        weights: ``default`` (the card's or bundle's own, else the published ones, which ``small/NAME`` has none of),
            ``none`` (from scratch), or a file.
        options: passed to the architecture, over those of the card or bundle.
        preprocess: size, mean, std, interpolation, crop: only what differs from the weights' own.
        in_chans: 3, or 1 for grey; None for what the weights were trained on.
        head: ``linear``, or ``{hidden: [128], activation: relu, dropout: 0.2}``.
        features: what the head reads: ``last``, ``stages`` or ``auto``.
        seed: of the new head, and of everything where `weights` is ``none``. The global generators are not touched.
        load: False where a checkpoint brings the weights: none are read, and all else is as if they had been.

    Raises:
        UsageError: a name, option or size that cannot be.
        ArtefactError: weights that are missing, broken, unsafe or of another architecture.
        ResourceError: published weights that are neither cached nor to be had.
    """
    _require_names(classes)
    choice = choose_backbone() if backbone == AUTO else None
    origin = find(choice.backbone if choice else backbone)
    weights = _without_names_of_torchvision(weights, origin.architecture)
    # a card may describe a network that has learned nothing, and nobody publishes weights of our small ones: `default`
    # is then from scratch, without a complaint
    described = origin.card is not None and origin.card.weights == "none"
    if weights == "default" and not origin.has_weights and (described or origin.architecture.startswith("small/")):
        weights = "none"
    own, base, taken_off = None, None, list[str]()
    if load and weights == "default":
        own, base = origin.weights(), origin.base(backbone)
    elif load and weights != "none":
        file = Path(weights).expanduser()
        state, taken_off = read_noted(file)
        own, base = (state, weights), Base(file.name, "a file of the user's", sha256_file(file))
    network = assemble(
        origin.architecture,
        classes,
        options={**origin.options, **(options or {})},
        preprocess={**origin.preprocess, **_given(preprocess)},
        in_chans=in_chans,
        head=head,
        features=features,
        seed=seed,
        trained=weights != "none",
        published=load and weights == "default" and own is None,
    )
    if choice:
        network.backbone = choice.backbone
        network.notes.append(f"network: {choice.sentence}")
    network.notes += [*origin.notes, *taken_off]
    if own is not None:
        state, network.source = own
        network.base = base
        loaded = load_backbone(network.module, state, network.heads, network.source)
        network.notes += loaded.notes
        network.missing = loaded.missing
    return network


def _require_names(classes: Sequence[str]) -> None:
    problem = None
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        problem = f"classes: {classes!r} is no list of names"
    elif len(set(classes)) < len(classes):
        problem = f"classes: {', '.join(sorted({name for name in classes if classes.count(name) > 1}))}: named twice"
    elif len(classes) < 2:
        problem = f"classes: there {'is only one' if classes else 'are none'}"
    if problem:
        raise UsageError(problem, "give at least two class names, each once")


def find(backbone: str) -> Origin:
    """Look up a backbone's name.

    Raises:
        UsageError: nothing that is known, or a path with nothing there.
        ArtefactError: a bundle that is damaged.
    """
    if backbone.partition("/")[0] in LIBRARIES:
        split_name(backbone)
        architecture, notes = _current(backbone)
        return Origin(architecture, notes=notes)
    path = local_path(Path(backbone).expanduser())
    card = card_of(backbone, Path())
    if card or path.suffix in CARD_SUFFIXES:
        return _from_card(card or path)
    if path.is_dir():
        bundle = read_description(path)
        return Origin(bundle.architecture, bundle.options, bundle.preprocess, bundle=bundle)
    # state dicts do not say which network they belong to, and guessing by shapes would be wrong sometimes
    if path.suffix in (".safetensors", ".pth", ".pt", ".bin"):
        raise UsageError(
            f"model.backbone: {backbone}: a weights file does not say which network it belongs to",
            f"name the architecture as model.backbone (timm/NAME) and say {setting('model.weights', backbone)}, or "
            "write a card",
        )
    if path.is_absolute() or backbone.startswith((".", "~")):
        raise UsageError(f"model.backbone: {backbone}: nothing there", "correct the path")
    split_name(backbone)  # says what it could have been
    return Origin(backbone)


def preprocess_of(backbone: str) -> dict[str, Any]:
    """The preprocessing that a backbone's weights expect, without reading the weights.

    Raises:
        UsageError, ArtefactError: as for `find`.
    """
    origin = find(backbone)
    library, _, name = origin.architecture.partition("/")
    return {**LIBRARIES[library].default_preprocess(name), **origin.preprocess}


def list_backbones(pattern: str = "*") -> list[str]:
    """Names of architectures that match a glob, with or without the library; plain text matches anywhere in the name.

    Where the pattern has a dot, timm's names with the tag of their weights (`timm/resnet50.a1_in1k`) match too.
    """
    wildcard = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    known = [f"{prefix}/{name}" for prefix, library in LIBRARIES.items() for name in library.names()]
    known += [f"timm/{name}" for name in from_timm.tagged_names()] if "." in pattern else []
    return sorted(
        name for name in known if fnmatchcase(name, wildcard) or fnmatchcase(name.partition("/")[2], wildcard)
    )


def _from_card(path: Path) -> Origin:
    card = read_card(path)
    try:
        split_name(card.architecture)
    except UsageError as error:
        named = [problem.removeprefix("model.backbone: ") for problem in error.problems]
        raise UsageError([f"{path}: architecture: {problem}" for problem in named], error.remedy) from error
    architecture, notes = _current(card.architecture)
    return Origin(architecture, card.options, _given(card.preprocess), card=card, notes=notes)


def _current(architecture: str) -> tuple[str, list[str]]:
    """The name that the library has now, and what to say where it is another."""
    library, _, name = architecture.partition("/")
    now = from_timm.current_name(name) if library == "timm" else name
    return f"{library}/{now}", [] if now == name else [f"{architecture}: timm has renamed it to {now}"]


def _without_names_of_torchvision(weights: str, architecture: str) -> str:
    """`default` for the name of torchvision's default weights; anything else as it is."""
    name = weights.rpartition("_Weights.")[2]
    if not re.fullmatch(r"(IMAGENET|KINETICS|COCO)[A-Z0-9_]*", name) or Path(weights).is_file():
        return weights
    library, _, network = architecture.partition("/")
    if library != "torchvision":
        remedy = (
            f"write {setting('model.weights', 'default')}, or name the weights' tag as the backbone (`finetune models`)"
        )
        raise UsageError(f"model.weights: {weights} names weights of torchvision, and {architecture} is not", remedy)
    from_torchvision.require_default(network, name)
    return "default"


def _given(values: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (values or {}).items() if value is not None}

"""An architecture of a library, built, sized, given its head, and tried on one dummy picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import torch
from torch import nn

from finetune.data.preprocess import Preprocess
from finetune.errors import FinetuneError, ResourceError, UsageError, did_you_mean, out_of_memory
from finetune.files import visible
from finetune.model import from_timm, from_torchvision, small
from finetune.model.groups import layer_groups
from finetune.model.heads import new_head, seeded
from finetune.model.lineage import Base
from finetune.model.network import HeadSpec, Network
from finetune.model.stages import read_stages
from finetune.model.weights import State


class Library(Protocol):
    """A library of architectures; the modules `from_timm`, `from_torchvision` and `small` are some."""

    def names(self) -> tuple[str, ...]:
        """Every architecture."""

    def check_name(self, name: str) -> None:
        """Refuse an unknown name (UsageError with the nearest)."""

    def default_preprocess(self, name: str) -> dict[str, Any]:
        """Fields of Preprocess."""

    def fixed_size(self, name: str, options: Mapping[str, Any]) -> tuple[str, tuple[int, int]]:
        """The option that fixes the input's size, and the size without it."""

    def as_option(self, option: str, size: tuple[int, int]) -> Any:
        """The value of that option for a size."""

    def own_options(self, name: str, *, trained: bool, in_chans: int) -> dict[str, Any]:
        """Options that are set where the user sets none."""

    def published(self, name: str) -> tuple[State, Base]:
        """The published weights, and where they come from."""

    def create(
        self, name: str, classes: int, in_chans: int, options: Mapping[str, Any], state: State | None
    ) -> nn.Module:
        """The network, with the published weights if given."""

    def heads(self, module: nn.Module, classes: int) -> tuple[str, ...]:
        """Dotted names of the classifier's layers."""


LIBRARIES: dict[str, Library] = {
    "timm": cast(Library, from_timm),
    "torchvision": cast(Library, from_torchvision),
    "small": cast(Library, small),
}

RESERVED = {
    "num_classes": "data.classes",
    "in_chans": "model.in_chans",
    "pretrained": "model.weights",
    "weights": "model.weights",
    "checkpoint_path": "model.weights",
    "pretrained_cfg": "model.weights",
    "pretrained_cfg_overlay": "model.weights",
    "cache_dir": "the environment variable FINETUNE_CACHE",
    "features_only": "nothing: a classifier has a head",
    "progress": "nothing",
    "scriptable": "nothing",
    "exportable": "nothing",
}
"""Options that are not the architecture's, and what says the same thing here."""


def split_name(architecture: str) -> tuple[Library, str]:
    """The library and the name in it of ``timm/NAME``, ``torchvision/NAME`` or ``small/NAME``.

    Raises:
        UsageError: no such library or name, with the nearest.
    """
    prefix, _, name = architecture.partition("/")
    if prefix not in LIBRARIES:
        known = [f"{prefix}/{name}" for prefix, library in LIBRARIES.items() for name in library.names()]
        same = [entry for entry in known if entry.partition("/")[2] == architecture]
        near = f" (did you mean {' or '.join(same)}?)" if same else did_you_mean(architecture, known)
        raise UsageError(
            f"model.backbone: {visible(architecture)}: unknown{near}",
            "write timm/NAME, torchvision/NAME or small/NAME, or a path to a card, a model bundle or a run folder",
        )
    LIBRARIES[prefix].check_name(name)
    return LIBRARIES[prefix], name


def assemble(
    architecture: str,
    classes: Sequence[str],
    *,
    options: Mapping[str, Any],
    preprocess: Mapping[str, Any],
    in_chans: int | None = None,
    head: HeadSpec = "linear",
    features: str = "last",
    proven: bool = False,
    seed: int = 0,
    trained: bool,
    published: bool = False,
) -> Network:
    """An architecture with its head, initialised from `seed` without touching the global generators.

    Args:
        architecture: ``timm/NAME``, ``torchvision/NAME`` or ``small/NAME``.
        classes: names, in the order of the logits.
        options: of the architecture.
        preprocess: what differs from the architecture's own; None counts as absent.
        in_chans: 3 or 1; None for as many as the preprocessing has means.
        head: ``linear`` or a mapping.
        features: what it reads: ``last``, ``stages``, or ``auto`` (stages, unless it turns out to be better without).
        proven: it has read its stages before, so that need not be tried.
        seed: of everything that is drawn.
        trained: weights are or will be loaded, so the head is a new one on a trained body.
        published: load the published weights.

    Raises:
        UsageError: an unknown name or option, or a size that the network cannot run.
        ResourceError, ArtefactError: see `from_timm.published`.
    """
    library, name = split_name(architecture)
    _refuse_reserved(options)
    given = {key: value for key, value in preprocess.items() if value is not None}
    in_chans = _natural_channels({**library.default_preprocess(name), **given}) if in_chans is None else in_chans
    own = library.own_options(name, trained=trained, in_chans=in_chans)
    complete, prepare = _sized(library, name, {**own, **options}, given, in_chans)
    state, base = library.published(name) if published else (None, None)
    with seeded(seed):
        module = _create(library, architecture, len(classes), in_chans, complete, state)
    heads = library.heads(module, len(classes))
    if not heads:
        raise UsageError(f"model.backbone: {architecture}: no classifier found in it", "choose another architecture")
    new_head(module, heads, head, len(classes), seed, reset=trained)
    module.eval()
    _try_out(module, architecture, prepare, len(classes))
    network = Network(
        module=module,
        architecture=architecture,
        options=complete,
        classes=list(classes),
        preprocess=prepare,
        head=heads[0],
        groups=layer_groups(module, architecture, heads),
        source=base.source if base else "none",
        base=base,
        head_spec=head if isinstance(head, str) else dict(head),
        pretrained=trained,
        more_heads=heads[1:],
    )
    if features != "last":
        problem = read_stages(network, proven)
        network.notes += [f"model.features: the head reads the last output only: {problem}"] if problem else []
        network.choose_features = features == "auto" and not problem
    return network


def _refuse_reserved(options: Mapping[str, Any]) -> None:
    taken = [key for key in options if key in RESERVED]
    problems = [f"model.options.{key}: not an option here; what says it is {RESERVED[key]}" for key in taken]
    if problems:
        raise UsageError(problems, "remove it from the options")


def _sized(
    library: Library, name: str, options: dict[str, Any], given: Mapping[str, Any], in_chans: int
) -> tuple[dict[str, Any], Preprocess]:
    """The options completed by the input's size where it is fixed at building, and the preprocessing."""
    values = {**library.default_preprocess(name), **given}
    option, natural = library.fixed_size(name, options)
    if option and option in options and "size" not in given:
        values["size"] = options[option]
    prepare = Preprocess.from_dict({**values, **_channels(values, in_chans)})
    if option and option not in options and prepare.size != natural:
        options = {**options, option: library.as_option(option, prepare.size)}
    return options, prepare


def _natural_channels(values: Mapping[str, Any]) -> int:
    """The channels that the weights were trained on: as many as there are means."""
    return 1 if isinstance(values["mean"], (list, tuple)) and len(values["mean"]) == 1 else 3


def _channels(values: Mapping[str, Any], in_chans: int) -> dict[str, Any]:
    """Mean and std for the number of channels: averaged for grey, repeated for colour."""
    if in_chans not in (1, 3):
        raise UsageError(f"model.in_chans: {in_chans}: pictures have 3 channels, or 1 if grey", "write 3 or 1")
    adapted: dict[str, Any] = {}
    for key in ("mean", "std"):
        numbers = values[key]
        if isinstance(numbers, (list, tuple)) and {len(numbers), in_chans} == {1, 3}:
            adapted[key] = [sum(numbers) / len(numbers)] * in_chans
    return adapted


def _create(
    library: Library, architecture: str, classes: int, in_chans: int, options: Mapping[str, Any], state: State | None
) -> nn.Module:
    frozen = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    try:
        return library.create(architecture.partition("/")[2], classes, in_chans, frozen, state).float()
    except FinetuneError:
        raise
    except Exception as error:  # whatever a constructor makes of options that it cannot use
        if out_of_memory(error):
            raise ResourceError(f"{architecture}: too large for this memory", "choose a smaller network") from error
        what = f"with model.options {dict(options)}" if options else "as it is"
        raise UsageError(
            f"model.backbone: {architecture} cannot be built {what}: {_line(error)}",
            "correct model.options (and model.preprocess.size); they are passed to the architecture's constructor",
        ) from error


def _try_out(module: nn.Module, architecture: str, prepare: Preprocess, classes: int) -> None:
    """Run one dummy picture, so that an impossible size or option is reported before anything is read."""
    height, width = prepare.size
    try:
        # Not inference mode: networks that keep tables between calls would keep tensors that autograd refuses.
        with torch.no_grad():
            logits = module(torch.zeros(1, prepare.channels, height, width))
    except Exception as error:  # any layer may fail in its own way
        if out_of_memory(error):
            problem = f"model.preprocess.size: not enough memory for {architecture} on one picture of {height}×{width}"
            raise ResourceError(problem, "choose a smaller size, or a smaller network") from error
        raise UsageError(
            f"model.preprocess.size: {architecture} cannot run on pictures of {height}×{width} with "
            f"{prepare.channels} channels: {_line(error)}",
            "leave the size to the weights' own, or choose one that the architecture takes",
        ) from error
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != (1, classes):
        raise UsageError(
            f"model.backbone: {architecture} does not give one score a class", "choose other model.options"
        )


def _line(error: Exception) -> str:
    text = (str(error) or type(error).__name__).strip().splitlines()[0]
    return visible(text)[:300]

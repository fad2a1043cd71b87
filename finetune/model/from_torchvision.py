"""Networks of torchvision, by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
import torchvision
from torch import nn

from finetune.errors import UsageError, did_you_mean, setting
from finetune.files import sha256_file
from finetune.model.fitting import load_backbone
from finetune.model.heads import last_layer
from finetune.model.lineage import Base
from finetune.model.published import url_weights
from finetune.model.weights import State, read_weights

_WITH_AUXILIARIES = ("googlenet", "inception_v3")


@cache
def names() -> tuple[str, ...]:
    """Every classification architecture."""
    return tuple(torchvision.models.list_models(module=torchvision.models))


def check_name(name: str) -> None:
    """Refuse a name that torchvision does not have.

    Raises:
        UsageError: with the nearest names.
    """
    if name not in names():
        near = did_you_mean(name, names())
        raise UsageError(f"model.backbone: torchvision has no {name!r}{near}", "`finetune models` lists what there is")


def default_preprocess(name: str) -> dict[str, Any]:
    """The preprocessing of the published weights (DEFAULT, torchvision's best)."""
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    crop, resize = preset.crop_size[0], preset.resize_size[0]
    return {
        "size": (crop, crop),
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
        "interpolation": preset.interpolation.value,
        "crop": min(crop / resize, 1.0),
    }


def require_default(name: str, weights: str) -> None:
    """Refuse a set of weights that is not the one this version takes.

    Args:
        name: of the architecture.
        weights: as torchvision names it, such as `IMAGENET1K_V1`.

    Raises:
        UsageError: there is no such set, or it is not the default; what to write instead is said.
    """
    sets = torchvision.models.get_model_weights(name)
    if weights not in sets.__members__:
        near = did_you_mean(weights, sets.__members__)
        problem = f"model.weights: torchvision has no {weights} for {name}{near}"
        raise UsageError(problem, f"there are {', '.join(sets.__members__)}")
    if sets[weights] is not sets.DEFAULT:
        raise UsageError(
            f"model.weights: {weights} is not torchvision's best for {name}, which {sets.DEFAULT.name} is",
            f"write {setting('model.weights', 'default')} for that, or fetch {sets[weights].url} and give the file",
        )


def fixed_size(name: str, options: Mapping[str, Any]) -> tuple[str, tuple[int, int]]:
    """The option that fixes the input's size (empty if any size will do), and the size without it."""
    return ("image_size" if name.startswith("vit_") else "input_size" if name.startswith("maxvit") else "", (224, 224))


def as_option(option: str, size: tuple[int, int]) -> Any:
    """The value of the option that fixes the input's size: one number for a ViT, height and width for a MaxViT.

    Raises:
        UsageError: a ViT for pictures that are not square.
    """
    if option == "image_size" and size[0] != size[1]:
        raise UsageError(f"model.preprocess.size: {list(size)}: this ViT takes square pictures", "give one number")
    return size[0] if option == "image_size" else list(size)


def own_options(name: str, *, trained: bool, in_chans: int) -> dict[str, Any]:
    """Options that are set where the user sets none.

    GoogLeNet and Inception come without their auxiliary classifiers, so that training gives one output, and, where
    they are trained, with the change of normalisation that torchvision's weights were ported with.
    """
    if name not in _WITH_AUXILIARIES:
        return {}
    return {"aux_logits": False, "transform_input": trained and in_chans == 3, "init_weights": False}


def published(name: str) -> tuple[State, Base]:
    """The published weights and where they come from.

    Raises:
        ResourceError: not cached, and no network.
        ArtefactError: the cached file is damaged.
    """
    url = torchvision.models.get_model_weights(name).DEFAULT.url
    path = url_weights(url)
    return read_weights(path), Base(f"torchvision/{name}", url, sha256_file(path))


def create(name: str, classes: int, in_chans: int, options: Mapping[str, Any], state: State | None) -> nn.Module:
    """The network with `classes` outputs; `state`, if given, is the published weights, loaded without their head."""
    if options.get("aux_logits"):
        raise UsageError("model.options.aux_logits: training has one output only", "leave it out")
    module: nn.Module = torchvision.models.get_model(name, num_classes=classes, **options)
    if in_chans != 3:
        _replace_first(module, in_chans)
    if state is not None:
        load_backbone(module, _resized(state, name, options), heads(module, classes), f"torchvision/{name}")
    return module


def heads(module: nn.Module, classes: int) -> tuple[str, ...]:
    """Dotted name of the classifier: the last layer with one output a class."""
    return tuple(name for name in [last_layer(module, classes)] if name)


def _replace_first(module: nn.Module, in_chans: int) -> None:
    """Another number of input channels for the first convolution."""
    name, old = next((name, child) for name, child in module.named_modules() if isinstance(child, nn.Conv2d))
    # Conv2d takes pairs, but says of what it keeps that it is a tuple of any length
    geometry: dict[str, Any] = {name: getattr(old, name) for name in ("kernel_size", "stride", "padding", "dilation")}
    new = nn.Conv2d(in_chans, old.out_channels, bias=old.bias is not None, **geometry)
    with torch.no_grad():
        new.weight.copy_(old.weight.sum(dim=1, keepdim=True).expand_as(new.weight) / in_chans)
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    module.set_submodule(name, new)


def _resized(state: State, name: str, options: Mapping[str, Any]) -> State:
    """Position embeddings of a ViT for the size it is built for."""
    if not name.startswith("vit_") or "image_size" not in options:
        return state
    patch = int(name.rpartition("_")[2])
    resized = torchvision.models.vision_transformer.interpolate_embeddings(options["image_size"], patch, state)
    return dict(resized)

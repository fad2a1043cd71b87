"""Networks of timm, by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import timm
from timm.models import PretrainedCfg, _registry, get_pretrained_cfg
from torch import nn

from finetune.errors import FROM_SCRATCH, UsageError, did_you_mean, setting, settings
from finetune.files import sha256_file
from finetune.model.heads import last_layer
from finetune.model.lineage import UNKNOWN, Base
from finetune.model.published import hub_weights, url_weights
from finetune.model.weights import State, read_weights


@cache
def names() -> tuple[str, ...]:
    """Every architecture, without the tags of its weights."""
    return tuple(timm.list_models())


@cache
def tagged_names() -> tuple[str, ...]:
    """Every set of published weights, as ARCHITECTURE.TAG."""
    return tuple(timm.list_models(pretrained=True))


def current_name(name: str) -> str:
    """The name that timm has now for one of old, with the tag of its weights: timm's own mapping."""
    return str(getattr(_registry, "_deprecated_models", {}).get(name) or name)


def check_name(name: str) -> None:
    """Refuse a name that timm does not have.

    Raises:
        UsageError: with the nearest names.
    """
    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        near = did_you_mean(base, names())
        raise UsageError(f"model.backbone: timm has no {name!r}{near}", "`finetune models` lists what there is")
    if tag and name not in tagged_names():
        tags = [known for known in tagged_names() if known.partition(".")[0] == base]
        raise UsageError(
            f"model.backbone: timm has no weights {name!r}{did_you_mean(name, tags)}",
            f"there are {', '.join(tags)}" if tags else f"{base} has no published weights at all",
        )


def default_preprocess(name: str) -> dict[str, Any]:
    """The preprocessing of the published weights, else the one that the architecture is meant for."""
    config = _config(name)
    return {
        "size": tuple(config.input_size[1:]),
        "mean": tuple(config.mean),
        "std": tuple(config.std),
        "interpolation": config.interpolation,
        "crop": config.crop_pct,
        "crop_mode": config.crop_mode,
    }


def fixed_size(name: str, options: Mapping[str, Any]) -> tuple[str, tuple[int, int]]:
    """The option that fixes the input's size (empty if any size will do), and the size without it."""
    config = _config(name)
    fixed = config.fixed_input_size and not options.get("dynamic_img_size", False)
    height, width = config.input_size[1:]
    return ("img_size" if fixed else "", (height, width))


def as_option(option: str, size: tuple[int, int]) -> Any:
    """The value of the option that fixes the input's size: height and width."""
    return list(size)


def own_options(name: str, *, trained: bool, in_chans: int) -> dict[str, Any]:
    """Options that are set where the user sets none: nothing, timm's defaults are fit for fine-tuning."""
    return {}


def published(name: str) -> tuple[State, Base]:
    """The published weights and where they come from.

    Raises:
        UsageError: there are none.
        ResourceError: not cached, and no network.
        ArtefactError: the cached file is damaged.
    """
    config = _config(name)
    if repo := config.hf_hub_id:
        path, source = hub_weights(repo, config.hf_hub_filename), f"{repo} on the Hugging Face hub"
    elif isinstance(config.url, str) and config.url:
        path, source = url_weights(config.url), config.url
    else:
        raise UsageError(
            f"model.weights: timm publishes no weights for {name}",
            f"name a weights file ({setting('model.weights', 'FILE')}), train from scratch ({settings(FROM_SCRATCH)}), "
            "or choose one of `finetune models`",
        )
    return read_weights(path), Base(f"timm/{name}", source, sha256_file(path), config.license or UNKNOWN)


def create(name: str, classes: int, in_chans: int, options: Mapping[str, Any], state: State | None) -> nn.Module:
    """The network with `classes` outputs; `state`, if given, is the published weights, loaded as timm does."""
    overlay: dict[str, Any] | None = None if state is None else {"state_dict": state}
    built: nn.Module = timm.create_model(
        name,
        pretrained=state is not None,
        pretrained_cfg_overlay=overlay,
        num_classes=classes,
        in_chans=in_chans,
        **options,
    )
    configuration = built.pretrained_cfg
    if isinstance(configuration, dict):
        configuration.pop("state_dict", None)  # or the network would hold all its weights twice
    return built


def heads(module: nn.Module, classes: int) -> tuple[str, ...]:
    """Dotted names of the classifier's layers; two in a distilled transformer."""
    named = getattr(module, "pretrained_cfg", {}).get("classifier") or ()
    known = dict(module.named_modules())
    named_heads = tuple(name for name in ((named,) if isinstance(named, str) else named) if name in known)
    return named_heads or tuple(name for name in [last_layer(module, classes)] if name)


def _config(name: str) -> PretrainedCfg:
    return get_pretrained_cfg(name) or PretrainedCfg()

"""A folder as timm's hub format has it: `timm.create_model("local-dir:FOLDER", pretrained=True)` builds the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from finetune.errors import UsageError
from finetune.files import write_atomic, write_json
from finetune.model.network import Network

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def require_timm(network: Network) -> None:
    """Refuse what timm could not build by name.

    Raises:
        UsageError: with the remedy.
    """
    problem = None
    if not network.architecture.startswith("timm/"):
        problem = f"{network.architecture} is not one of timm's networks"
    elif network.head_spec != "linear" or getattr(network, "features", "last") != "last":
        problem = "timm builds networks with one linear layer on their last features, and this head is another"
    if problem:
        raise UsageError(
            f"export timm: {problem}",
            "export it with --to onnx or --to torch, or train with -o model.features=last -o model.head=linear",
        )


def write_timm(network: Network, module: nn.Module, folder: Path) -> list[str]:
    """Write the weights and their configuration; returns the files' names."""
    from safetensors.torch import save

    state = {name: tensor.contiguous().clone() for name, tensor in module.state_dict().items()}
    write_atomic(folder / WEIGHTS, save(state, {"format": "pt"}))
    write_json(folder / CONFIG, configuration(network, module))
    return [WEIGHTS, CONFIG]


def configuration(network: Network, module: nn.Module) -> dict[str, Any]:
    """What timm's `config.json` says (timm/models/_hub.py, `save_config_for_hf`)."""
    prepare = network.preprocess
    own = dict(getattr(module, "pretrained_cfg", None) or {})
    options = {**network.options, **({} if network.in_chans == 3 else {"in_chans": network.in_chans})}
    pool = getattr(module, "global_pool", None)
    return {
        "architecture": network.architecture.removeprefix("timm/").partition(".")[0],
        "num_classes": len(network.classes),
        "num_features": getattr(module, "num_features", None),
        **({"global_pool": pool} if isinstance(pool, str) else {}),
        "label_names": network.classes,
        "model_args": options,
        "pretrained_cfg": {
            "num_classes": len(network.classes),
            "input_size": [network.in_chans, *prepare.size],
            "fixed_input_size": bool(own.get("fixed_input_size", False)),
            "interpolation": prepare.interpolation,
            "crop_pct": prepare.crop,
            "crop_mode": prepare.crop_mode,
            "mean": list(prepare.mean),
            "std": list(prepare.std),
            **{key: own[key] for key in ("first_conv", "classifier") if own.get(key)},
        },
    }


def load_timm(folder: Path) -> nn.Module:
    """What timm itself makes of the folder, in eval mode."""
    import timm

    with torch.random.fork_rng(devices=[]):
        module: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return module.eval()

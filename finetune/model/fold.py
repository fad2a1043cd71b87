"""BatchNorm folded into the convolution before it, where nothing learns.

In evaluation a BatchNorm is one multiplication and one addition a channel, and a convolution can carry both in its own
kernel and bias (Jacob et al. 2018, section 3.2): one pass less over the values, the same numbers to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from finetune.device import own_randomness
from finetune.model.trace import fetch, follow, twin

TOLERANCE = 1e-4
"""Largest deviation of the folded network's logits, as a share of the largest logit."""


def fold(traced: fx.GraphModule) -> fx.GraphModule:
    """Fold every BatchNorm that directly follows a convolution of its own.

    Args:
        traced: in eval mode; its modules are left as they are, folded ones are copies.

    Returns:
        A module that gives the same to rounding; `traced` itself where there is nothing to fold.
    """
    modules = {node: fetch(traced, str(node.target)) for node in traced.graph.nodes if node.op == "call_module"}
    uses: dict[Any, int] = {}
    for node in modules:
        uses[node.target] = uses.get(node.target, 0) + 1
    pairs = {
        node: source
        for node, norm in modules.items()
        if _plain(norm) and (source := node.args[0]) in modules and _carries(modules[source], source, uses)
    }
    if not pairs:
        return traced
    root: dict[str, Any] = {str(node.target): module for node, module in modules.items()}
    root |= {str(n.target): fetch(traced, str(n.target)) for n in traced.graph.nodes if n.op == "get_attr"}
    graph, made = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in traced.graph.nodes:
        if node not in pairs:
            made[node] = graph.node_copy(node, made.__getitem__)
            continue
        source = pairs[node]
        conv, norm = modules[source], modules[node]
        root[str(source.target)] = fuse_conv_bn_eval(conv, norm)
        made[node] = made[source]
        if isinstance(norm, BatchNormAct2d) and not isinstance(norm.act, nn.Identity):
            root[str(node.target)] = norm.act
            made[node] = graph.call_module(str(node.target), (made[source],))
    return fx.GraphModule(root, graph)


def fold_network(module: nn.Module, example: torch.Tensor) -> nn.Module:
    """A whole network folded, for inference only; the network itself where it cannot be traced.

    Args:
        module: in eval mode; it is left as it is.
        example: images as it gets them, float32 [N, C, H, W].
    """
    try:
        with own_randomness():
            found = follow(twin(module), example, {})
            folded = fold(fx.GraphModule(found.module, found.graph))
            images = torch.cat([torch.randn_like(example), example[:1]])  # a size of batch that nothing was traced with
            with torch.inference_mode():
                whole, parts = module(images), folded(images)
    except Exception:  # a network's own code, run in an unusual way, may raise anything; as it is, it still works
        return module
    agrees = float((parts - whole).abs().max()) <= TOLERANCE * max(float(whole.abs().max()), 1e-6)
    return folded if agrees else module


def _plain(norm: object) -> bool:
    """Whether it is a BatchNorm that only scales and shifts each channel by what it has learnt."""
    if not isinstance(norm, nn.BatchNorm2d) or norm.training or norm.running_mean is None:
        return False
    return type(norm) is nn.BatchNorm2d or (type(norm) is BatchNormAct2d and isinstance(norm.drop, nn.Identity))


def _carries(conv: object, node: fx.Node, uses: dict[Any, int]) -> bool:
    """Whether it is a convolution that runs once, and whose result goes nowhere else."""
    return isinstance(conv, nn.Conv2d) and len(node.users) == 1 and uses[node.target] == 1

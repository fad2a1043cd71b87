"""BatchNorm folded into the convolution before it, where its statistics stay.

In evaluation a BatchNorm is one multiplication and one addition a channel, and a convolution can carry both in its own
kernel and bias (Jacob et al. 2018, section 3.2): one pass less over the values, the same numbers to rounding. Where
nothing learns the kernel is made once; where kernel, scale or shift learn, at every step, and the gradient finds its
way to each of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from finetune.device import own_randomness
from finetune.model.trace import fetch, follow, twin

TOLERANCE = 1e-4
"""Largest deviation of the folded network's logits, as a share of the largest logit."""

LOGIC = 1e-2
"""The same for what learns: far above rounding, so that whether it is folded does not hang on what the weights are, and
a resumed run decides as the run did; what a network's own code may make go wrong is far above this."""


class Folded(nn.Module):
    """A convolution and the BatchNorm after it as one convolution, whose kernel is made of theirs at every call.

    Args:
        conv: the convolution; its parameters and those of `norm` collect the gradients.
        norm: in eval mode.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv, self.norm = conv, norm
        runs = copy.copy(conv)
        runs._parameters = {}  # weight and bias are ordinary attributes of this one
        self._runs = [runs]  # in a list, so that it is no submodule

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The normalised maps, [N, C, H, W]."""
        conv, norm, (runs,) = self.conv, self.norm, self._runs
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = torch.rsqrt(norm.running_var + norm.eps)
        scale = scale if norm.weight is None else scale * norm.weight
        mean = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
        shift = -mean * scale
        runs.weight = conv.weight * scale.view(-1, 1, 1, 1)
        runs.bias = shift if norm.bias is None else shift + norm.bias
        try:
            return runs.forward(images)
        finally:
            del runs.weight, runs.bias


def fold(traced: fx.GraphModule, join: Callable[[Any, Any], nn.Module] = fuse_conv_bn_eval) -> fx.GraphModule:
    """Fold every BatchNorm that directly follows a convolution of its own.

    Args:
        traced: its BatchNorms in eval mode; its modules are left as they are.
        join: makes one module of a convolution and a BatchNorm: a copy of the convolution, or `Folded`.

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
        root[str(source.target)] = join(conv, norm)
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


def fold_learning(part: nn.Module, *values: torch.Tensor) -> nn.Module:
    """A part of a network that learns, with the BatchNorms folded that keep their statistics; itself where none can be.

    It runs the same submodules, in the modes that they are in now, and the gradients go to the same parameters.

    Args:
        part: all its BatchNorms in eval mode; left as it is.
        values: what it takes, each [N, ...].
    """
    try:
        graph = part if isinstance(part, fx.GraphModule) else _traced(part, *values)
        folded = fold(graph, Folded)
        found = []
        with own_randomness(), torch.no_grad():
            for one in (part, folded):
                torch.manual_seed(0)
                found.append(one(*values))
    except Exception:  # a network's own code again: unfolded, it still learns
        return part
    whole, parts = found
    agrees = float((parts - whole).abs().max()) <= LOGIC * max(float(whole.abs().max()), 1e-6)
    return folded if agrees and folded is not graph else part


def _traced(module: nn.Module, images: torch.Tensor) -> fx.GraphModule:
    """The operations of a network around its own submodules."""
    with own_randomness():
        found = follow(twin(module), images, {})
    targets = {str(node.target) for node in found.graph.nodes if node.op in ("call_module", "get_attr")}
    root = {name: fetch(found.module if name.startswith("_tensor_constant") else module, name) for name in targets}
    return fx.GraphModule(root, found.graph)


def _plain(norm: object) -> bool:
    """Whether it is a BatchNorm that only scales and shifts each channel by what it has learnt."""
    if not isinstance(norm, nn.BatchNorm2d) or norm.training or norm.running_mean is None:
        return False
    return type(norm) is nn.BatchNorm2d or (type(norm) is BatchNormAct2d and isinstance(norm.drop, nn.Identity))


def _carries(conv: object, node: fx.Node, uses: dict[Any, int]) -> bool:
    """Whether it is a convolution that runs once, and whose result goes nowhere else."""
    return isinstance(conv, nn.Conv2d) and len(node.users) == 1 and uses[node.target] == 1

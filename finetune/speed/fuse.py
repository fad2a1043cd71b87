"""Finds in a network's graph where a convolution and what follows it may be one operation, `Fused`.

What that gains, where and when it was measured, and what it falls back to, is in `fused.py`. A convolution with nothing
to fuse is left as it is; a graph with none is returned unchanged.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from finetune.model.trace import fetch
from finetune.speed.fold import Folded, is_plain
from finetune.speed.fused import ACTIVATIONS, AFTER_ADDITION, Fused

ADDITIONS = (operator.add, operator.iadd, torch.add)
RELU = (functional.relu, torch.relu)


@dataclass
class _Chain:
    """A convolution and what can be done with it at once.

    Attributes:
        nodes: the operations, in order; the first is the convolution.
        addition: the one that adds, if any, and `other` what it adds.
        act: the activation.
    """

    nodes: list[fx.Node]
    addition: fx.Node | None = None
    other: fx.Node | None = None
    act: nn.Module = field(default_factory=nn.Identity)


def fuse(graph: fx.GraphModule, *, fixed: bool) -> fx.GraphModule:
    """The same for inference, each convolution with the addition and the activation that alone use its result.

    Args:
        graph: its modules in eval mode; they are left as they are, and shared.
        fixed: their weights no longer change.

    Returns:
        A module that gives the same to rounding; `graph` itself where there is nothing to fuse.
    """
    modules = {node: fetch(graph, str(node.target)) for node in graph.graph.nodes if node.op == "call_module"}
    chains: list[_Chain] = []
    taken: set[fx.Node] = set()
    for node, module in modules.items():
        if _can_fuse(module):
            chain = _chain(node, modules, taken)
            taken.update(chain.nodes)
            chains.append(chain)
    if not any(len(chain.nodes) > 1 for chain in chains):
        return graph
    root: dict[str, Any] = {str(node.target): module for node, module in modules.items()}
    root |= {str(n.target): fetch(graph, str(n.target)) for n in graph.graph.nodes if n.op == "get_attr"}
    start_of_chain = {chain.addition or chain.nodes[0]: (number, chain) for number, chain in enumerate(chains)}
    fused, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in graph.graph.nodes:
        if node in start_of_chain:
            number, chain = start_of_chain[node]
            name = f"fused_{number}"
            root[name] = Fused(modules[chain.nodes[0]], chain.act, fixed=fixed)
            inputs = [source for source in (chain.nodes[0].args[0], chain.other) if isinstance(source, fx.Node)]
            result = fused.call_module(name, tuple(copies[source] for source in inputs))
            copies.update(dict.fromkeys(chain.nodes, result))
        elif node not in taken:
            copies[node] = fused.node_copy(node, copies.__getitem__)
    return fx.GraphModule(root, fused)


def _can_fuse(module: object) -> bool:
    """Whether it is a convolution that oneDNN's operator can do."""
    form = module.conv if isinstance(module, Folded) else module
    return is_plain(form) and not isinstance(getattr(form, "padding", ""), str)


def _chain(conv: fx.Node, modules: dict[fx.Node, nn.Module], taken: set[fx.Node]) -> _Chain:
    """The longest run of operations after a convolution that can be fused with it; none of them is `taken`."""
    chain = _Chain([conv])

    def follow() -> fx.Node | None:
        """The one user of the chain's result, past what does nothing."""
        while True:
            users = list(chain.nodes[-1].users)
            if len(users) != 1 or users[0] in taken:
                return None
            if not _does_nothing(modules.get(users[0])):
                return users[0]
            chain.nodes.append(users[0])

    user = follow()
    # the fused operation runs where the addition was, as the other operand may be computed after the convolution
    if user is not None and (other := _other_operand(user, chain.nodes[-1])) is not None and _can_delay(conv, user):
        chain.addition, chain.other = user, other
        chain.nodes.append(user)
        user = follow()
    if user is not None:
        activation = nn.ReLU() if user.op == "call_function" and user.target in RELU else modules.get(user)
        known = ACTIVATIONS if chain.addition is None else AFTER_ADDITION
        if type(activation) in known and activation is not None:
            chain.act = activation
            chain.nodes.append(user)
    return chain


def _does_nothing(module: nn.Module | None) -> bool:
    return type(module) is nn.Identity or (isinstance(module, nn.Dropout) and not module.training)


def _other_operand(node: fx.Node, result: fx.Node) -> fx.Node | None:
    """The other operand if `node` adds something to the result; None if it does not, or writes in place elsewhere."""
    if node.op != "call_function" or node.target not in ADDITIONS or len(node.args) != 2 or node.kwargs:
        return None
    first, second = node.args
    if node.target is operator.iadd and first is not result:
        return None  # it writes into the other operand, which may be used again
    other = second if first is result else first
    return other if isinstance(other, fx.Node) and other is not result else None


def _can_delay(conv: fx.Node, until: fx.Node) -> bool:
    """Whether the convolution's input is surely the same when `until` runs: only convolutions read it before."""
    (source,) = conv.all_input_nodes
    node, between = conv.next, set[fx.Node]()
    while node is not until:
        between.add(node)
        node = node.next
    graph = conv.graph.owning_module
    readers = [user for user in source.users if user in between]
    return all(r.op == "call_module" and graph is not None and _can_fuse(fetch(graph, str(r.target))) for r in readers)

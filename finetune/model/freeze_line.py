"""The freeze line through a traced network: what learns, what is fixed, and the values that cross."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from finetune.model.trace import Effect, Trace, around, drop_dead


class PerImage(NamedTuple):
    """A number that goes with the batch: `times` for each image."""

    times: int


class Uncuttable(Exception):
    """No line can be drawn; the message says why."""


class FreezeLine:
    """The line for operations that must be above it (`seeds`), settled so that plain batches of values cross.

    What depends on a seed is above too. An operation below whose value cannot be kept image by image is repeated
    above: windows of several images in one, or what is cheaply made of values that cross anyway. Numbers such as the
    batch size don't cross; they are made from a value that does.

    Args:
        trace: the network's operations.
        seeds: what must be above.
        other: key → what the operation gave for a batch of another size.
        other_batch: that size.

    Attributes:
        learning: the operations that depend on a seed.
        repeated: those that are below, and above once more.
        values: the operations whose results cross, in order.
        carried: operations that give no tensor → what stands for their result above.
    """

    def __init__(self, trace: Trace, seeds: Collection[fx.Node], other: Mapping[int, Effect], other_batch: int) -> None:
        self._trace, self._seeds, self._other, self._other_batch = trace, set(seeds), other, other_batch
        self._order = {node: position for position, node in enumerate(trace.nodes)}
        self.repeated: set[fx.Node] = set()
        self.values: list[fx.Node] = []
        self.carried: dict[fx.Node, Any] = {}
        self.learning = self._above()
        # each move may push further operations over the line; it ends, as an operation moves once at most
        while moved := self._to_move():
            for node in moved:
                self._move(node)
            self.learning = self._above()

    def is_above(self, node: fx.Node) -> bool:
        """Whether the suffix runs the operation."""
        return node in self.learning or node in self.repeated

    def _above(self) -> set[fx.Node]:
        """The seeds and all that depends on them, through memory written in place as well."""
        effects = self._trace.effects
        while True:
            above: set[fx.Node] = set()
            written: set[int] = set()
            read: set[int] = set()
            overwrites: set[fx.Node] = set()
            for node in self._trace.nodes:
                inputs = node.all_input_nodes
                memory = {storage for source in inputs for storage in effects[source].storages}
                if node in self._seeds or any(source in above for source in inputs) or memory & written:
                    above.add(node)
                    written |= effects[node].writes
                    read |= memory
                elif effects[node].writes & read:
                    overwrites.add(node)
            if not overwrites:
                return above
            # It is below, but overwrites what one above has read before it; run in the other order, that fails.
            self._seeds |= overwrites

    def _to_move(self) -> list[fx.Node]:
        """The operations whose results would cross but should not, as the line is now."""
        above = [node for node in self._trace.nodes if self.is_above(node)]
        needed = {source for node in above for source in node.all_input_nodes if source in self._trace.varying}
        crossing = sorted((node for node in needed if not self.is_above(node)), key=self._order.__getitem__)
        self.values, self.carried, moved = [], {}, []
        for node in crossing:
            if self._batched(node):
                self.values.append(node)
                continue
            try:
                self.carried[node] = self._stand_in(node)
            except Uncuttable:
                moved.append(node)
        return moved or self._made_of(self.values) or self._sharing(above)

    def _batched(self, node: fx.Node) -> bool:
        """Whether the result is one tensor with a row for each image."""
        value, other = self._trace.effects[node].value, self._other_value(node)
        if not (isinstance(value, torch.Tensor) and isinstance(other, torch.Tensor) and value.dim() and other.dim()):
            return False
        batches = (len(value), len(other)) == (self._trace.batch, self._other_batch)
        return batches and value.shape[1:] == other.shape[1:]

    def _other_value(self, node: fx.Node) -> Any:
        effect = self._other.get(self._trace.keys[node])
        return None if effect is None else effect.value

    def _stand_in(self, node: fx.Node) -> Any:
        return _stand_in(self._trace.effects[node].value, self._other_value(node), self._trace.batch, self._other_batch)

    def _made_of(self, values: Sequence[fx.Node]) -> list[fx.Node]:
        """A value that is computed from other values without a parameter: keeping both would keep it twice."""
        for node in values:
            sources = [source for source in node.all_input_nodes if source in self._trace.varying]
            plain = node.op.startswith("call") and not self._trace.parameters(node)
            tensors = [source for source in sources if source not in self.carried]
            if plain and self._repeatable(node) and tensors and all(source in values for source in tensors):
                return [node]
        return []

    def _sharing(self, above: Iterable[fx.Node]) -> list[fx.Node]:
        """All but the first of the values that share memory which is written to above the line."""
        effects = self._trace.effects
        written = {storage for node in above for storage in effects[node].writes}
        seen_memory: set[int] = set()
        moved = []
        for node in self.values:
            shared = effects[node].storages & written
            if shared & seen_memory:
                moved.append(node)
            seen_memory |= shared
        return moved

    def _move(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            raise Uncuttable("the images themselves would have to cross")
        (self.repeated if self._repeatable(node) else self._seeds).add(node)

    def _repeatable(self, node: fx.Node) -> bool:
        """Whether it gives the same when run again, after all that is below has run."""
        effects = self._trace.effects
        memory = set(effects[node].storages)
        memory |= {storage for source in node.all_input_nodes for storage in effects[source].storages}
        later = self._trace.nodes[self._order[node] :]
        return not any(effects[other].writes & memory and other not in self.learning for other in later)


def _stand_in(one: Any, other: Any, batch: int, other_batch: int) -> Any:
    """A stand-in for a result that was `one` for `batch` images and `other` for `other_batch`."""
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)) and len(one) == len(other):
        return tuple(_stand_in(a, b, batch, other_batch) for a, b in zip(one, other, strict=True))
    if isinstance(one, (bool, int, float, str, torch.dtype, torch.device, type(None))) and type(one) is type(other):
        if one == other:
            return one
        if isinstance(one, int) and one % batch == 0 and one // batch * other_batch == other:
            return PerImage(one // batch)
    raise Uncuttable("a result that is neither a tensor nor a plain number crosses the line")


def prefix_of(line: FreezeLine, trace: Trace, module: nn.Module) -> fx.GraphModule:
    """The module below the line: images → the values that cross."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in trace.nodes:
        if node not in line.learning:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in line.values))
    return _module(graph, module, trace, {copied: node for node, copied in copies.items()})


def suffix_of(line: FreezeLine, trace: Trace, module: nn.Module, values: Sequence[int]) -> fx.GraphModule:
    """The module above the line: the values, given by their keys and in that order → logits.

    Raises:
        Uncuttable: the line needs a value that is not among `values`.
    """
    graph = fx.Graph()
    inputs = {key: graph.placeholder(f"value_{position}") for position, key in enumerate(values)}
    copies: dict[fx.Node, Any] = {}
    written = {s for node in trace.nodes if line.is_above(node) for s in trace.effects[node].writes}
    for node in line.values:
        value = inputs.get(trace.keys[node])
        if value is None:
            raise Uncuttable("evaluation needs a value that training does not")
        # What crosses is kept and used again, so it must not be written to.
        copies[node] = graph.call_method("clone", (value,)) if trace.effects[node].storages & written else value
    if any(_batch_goes_into(stand_in) for stand_in in line.carried.values()):
        batch = graph.call_method("size", (next(iter(inputs.values())), 0))
        copies |= {node: _with_batch(stand_in, graph, batch) for node, stand_in in line.carried.items()}
    else:
        copies |= line.carried
    for node in trace.nodes:
        if node not in copies and (line.is_above(node) or node not in trace.varying):
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[trace.output])
    return _module(graph, module, trace, {new: node for node, new in copies.items() if isinstance(new, fx.Node)})


def _batch_goes_into(stand_in: Any) -> bool:
    if isinstance(stand_in, PerImage):
        return True
    return isinstance(stand_in, tuple) and any(_batch_goes_into(part) for part in stand_in)


def _with_batch(stand_in: Any, graph: fx.Graph, batch: fx.Node) -> Any:
    if isinstance(stand_in, PerImage):
        return graph.call_function(operator.mul, (batch, stand_in.times))
    if isinstance(stand_in, tuple):
        return tuple(_with_batch(part, graph, batch) for part in stand_in)
    return stand_in


def _module(graph: fx.Graph, module: nn.Module, trace: Trace, came_from: Mapping[fx.Node, fx.Node]) -> fx.GraphModule:
    """The graph as a module around the submodules, parameters and buffers of `module` itself."""
    drop_dead(graph, {node: trace.effects[source] for node, source in came_from.items()})
    return around(graph, trace.module, module)

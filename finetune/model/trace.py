"""A network as a graph of operations, with what each of them did when it ran."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate
from torch.multiprocessing.reductions import StorageWeakRef

from finetune.model.tracer import trace

KeyTable = dict[Hashable, int]
"""What an operation computes → a number for it, the same in every graph that is followed with the same table."""

MAYBE_VIEWS = {"contiguous", "reshape", "flatten", "ravel", "to", "float", "type", "type_as", "dropout"}
"""Operations that copy or don't, by memory format or precision."""


@dataclass(frozen=True)
class Effect:
    """The effect of one operation.

    Attributes:
        value: its result; tensors are without content, on the meta device.
        storages: the memory that its result lies in, and may lie in with another memory format.
        writes: the memory of its inputs that it changed.
        impure: whether it drew random numbers, or changed a parameter or buffer.
    """

    value: Any
    storages: frozenset[int]
    writes: frozenset[int]
    impure: bool


@dataclass(frozen=True)
class Trace:
    """A network's operations for one setting of its modes.

    Attributes:
        module: the traced copy; it shares the network's parameters.
        graph: the operations, in order; what has no effect on the output is left out.
        batch: how many images the operations were run on.
        effects: operation → what it did.
        keys: operation → what it computes; two operations with the same key give the same value.
        varying: the operations whose results depend on the images.
    """

    module: nn.Module
    graph: fx.Graph
    batch: int
    effects: dict[fx.Node, Effect]
    keys: dict[fx.Node, int]
    varying: frozenset[fx.Node]

    @property
    def nodes(self) -> list[fx.Node]:
        """The operations in order, without the output."""
        return [node for node in self.graph.nodes if node.op != "output"]

    @property
    def output(self) -> fx.Node:
        """The operation whose result the network returns."""
        (result,) = next(iter(reversed(self.graph.nodes))).args
        if not isinstance(result, fx.Node):
            raise TypeError("the network returns more than one tensor")
        return result

    def parameters(self, node: fx.Node) -> list[nn.Parameter]:
        """The parameters that an operation brings in."""
        if node.op not in ("call_module", "get_attr"):
            return []
        used = fetch(self.module, str(node.target))
        if isinstance(used, nn.Module):
            return list(used.parameters())
        return [used] if isinstance(used, nn.Parameter) else []


def copy_sharing_parameters(module: nn.Module) -> nn.Module:
    """A copy that shares the parameters; buffers and modes are its own, so that tracing leaves no mark on `module`."""
    return copy.deepcopy(module, {id(parameter): parameter for parameter in module.parameters()})


def fetch(module: nn.Module, target: str) -> Any:
    """The submodule, parameter, buffer or constant with a dotted name."""
    target_object: Any = module
    for name in target.split("."):
        target_object = getattr(target_object, name)
    return target_object


def around(graph: fx.Graph, traced: nn.Module, module: nn.Module) -> fx.GraphModule:
    """A graph of operations as a module around the submodules, parameters and buffers of `module` itself.

    Args:
        graph: of `traced`, or made of parts of it.
        traced: the twin of `module` that was followed; it has the constants that tracing found.
        module: the network.
    """
    targets = {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}
    root = {name: fetch(traced if name.startswith("_tensor_constant") else module, name) for name in targets}
    return fx.GraphModule(root, graph)


def trace_and_run(module: nn.Module, images: torch.Tensor, table: KeyTable) -> Trace:
    """Trace `module` in the modes it is in, and run it once on `images` to see what each operation does.

    The global random state is used and buffers are updated as in any forward pass; hand in a `copy_sharing_parameters`.

    Args:
        module: the network, called with images alone.
        images: float [N, C, H, W].
        table: numbers for the keys, shared by the traces that are to be compared.

    Raises:
        Exception: whatever a network raises that cannot be traced, e.g. `torch.fx.proxy.TraceError`.
    """
    # PyTorch counts the writes to each tensor; the count is private, but nothing else tells of a write in place
    buffers = [(buffer, buffer._version) for buffer in module.buffers()]
    graph = trace(module)
    if any(buffer._version != version for buffer, version in buffers):
        raise RuntimeError("a buffer changes whatever the images are, which no trace shows")
    observer = _Observer(module, graph, images.device)
    with torch.no_grad():
        observer.run(images)
    effects = observer.effects
    drop_dead(graph, effects)
    first = next(iter(graph.nodes))
    varying: set[fx.Node] = {first}
    for node in graph.nodes:
        if any(source in varying for source in node.all_input_nodes):
            varying.add(node)
    return Trace(module, graph, len(images), effects, _keys(module, graph, effects, table), frozenset(varying))


def drop_dead(graph: fx.Graph, effects: Mapping[fx.Node, Effect]) -> None:
    """Take out what has no effect on the output, on a buffer or on the random state.

    Args:
        graph: what is run.
        effects: of its operations; one without is taken to have none but its result.
    """
    live: set[fx.Node] = set()
    memory: set[int] = set()
    for node in reversed(graph.nodes):
        effect = effects.get(node)
        acts = effect is not None and (effect.impure or bool(effect.writes & memory))
        if acts or node.op in ("placeholder", "output") or any(user in live for user in node.users):
            live.add(node)
            for source in node.all_input_nodes:
                memory |= effects[source].storages if source in effects else set()
    graph.eliminate_dead_code(lambda node: node in live)


class _Observer(fx.Interpreter):
    """Runs a graph and notes what each operation does."""

    def __init__(self, module: nn.Module, graph: fx.Graph, device: torch.device) -> None:
        super().__init__(module, graph=graph)
        self._device = device
        self.effects: dict[fx.Node, Effect] = {}
        self._fixed: set[int] = set()
        # As long as a weak reference to freed memory lives, no other memory has its number.
        self._numbered: list[StorageWeakRef] = []

    def run_node(self, n: fx.Node) -> Any:
        inputs = _tensors(self.fetch_args_kwargs_from_env(n))
        module = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        own = [*module.parameters(), *module.buffers()] if isinstance(module, nn.Module) else []
        before = [(tensor, tensor._version) for tensor in inputs]
        own_before = [(tensor, tensor._version) for tensor in own]
        random = self._random_state()  # what draws random numbers moves the generator, whatever it is called
        result = super().run_node(n)
        changed = [tensor for tensor, version in before if tensor._version != version]
        writes = self._storages(changed)
        storages = self._storages(_tensors(result))
        if n.op == "get_attr":
            self._fixed |= storages
        name = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", "")
        if n.op != "output" and (name in MAYBE_VIEWS or isinstance(module, nn.Flatten)):
            storages |= self._storages(inputs)
        self.effects[n] = Effect(
            value=map_aggregate(result, _without_content),
            storages=storages,
            writes=writes,
            impure=bool(writes & self._fixed)
            or any(tensor._version != version for tensor, version in own_before)
            or not all(torch.equal(a, b) for a, b in zip(random, self._random_state(), strict=True)),
        )
        return result

    def _random_state(self) -> list[torch.Tensor]:
        cpu = torch.get_rng_state()
        return [cpu] if self._device.type == "cpu" else [cpu, torch.get_device_module(self._device).get_rng_state()]

    def _storages(self, tensors: list[torch.Tensor]) -> frozenset[int]:
        storages = [tensor.untyped_storage() for tensor in tensors]
        weak = [StorageWeakRef(storage) for storage in storages]  # type: ignore[no-untyped-call]  # torch: no annotation
        self._numbered += weak
        return frozenset(reference.cdata for reference in weak)


def _tensors(value: Any) -> list[torch.Tensor]:
    tensors: list[torch.Tensor] = []
    map_aggregate(value, lambda leaf: tensors.append(leaf) if isinstance(leaf, torch.Tensor) else None)
    return tensors


def _without_content(leaf: Any) -> Any:
    return torch.empty_like(leaf, device="meta") if isinstance(leaf, torch.Tensor) else leaf


def _keys(module: nn.Module, graph: fx.Graph, effects: dict[fx.Node, Effect], table: KeyTable) -> dict[fx.Node, int]:
    """Number what each operation computes: its function, and what its inputs hold at that moment."""
    keys: dict[fx.Node, int] = {}
    now: dict[fx.Node, int] = {}
    for node in graph.nodes:
        structure = (node.op, _identity_of_target(module, node), _frozen(node.args, now), _frozen(node.kwargs, now))
        key = table.setdefault(structure, len(table))
        if writes := effects[node].writes:
            for other in now:
                if effects[other].storages & writes:
                    now[other] = table.setdefault(("after", now[other], key), len(table))
        keys[node] = now[node] = key
    return keys


def _identity_of_target(module: nn.Module, node: fx.Node) -> Hashable:
    if node.op != "get_attr" or not str(node.target).startswith("_tensor_constant"):
        return node.target
    # Constants made while tracing are numbered anew in each trace: only their content tells which is which.
    tensor = fetch(module, str(node.target)).detach().cpu().contiguous()
    content = hashlib.sha256(tensor.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
    return ("constant", tuple(tensor.shape), tensor.dtype, content)


def _frozen(argument: Any, now: dict[fx.Node, int]) -> Hashable:
    if isinstance(argument, fx.Node):
        return ("node", now[argument])
    if isinstance(argument, (tuple, list)):
        return ("list", *(_frozen(item, now) for item in argument))
    if isinstance(argument, dict):
        return ("dict", *((name, _frozen(item, now)) for name, item in argument.items()))
    if isinstance(argument, slice):
        return ("slice", *(_frozen(part, now) for part in (argument.start, argument.stop, argument.step)))
    return (type(argument).__name__, repr(argument))

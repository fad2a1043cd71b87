"""Turns a network's code into a graph of operations: torch.fx, with what timm and torchvision want kept whole."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any

import torchvision
from timm.layers import drop, patch_dropout
from timm.layers._fx import get_notrace_functions, get_notrace_modules
from torch import fx, nn

RANDOM = (
    drop.DropPath,
    drop.DropBlock2d,
    patch_dropout.PatchDropout,
    torchvision.ops.StochasticDepth,
    torchvision.ops.DropBlock2d,
)
"""Kept whole in the graph, so that they obey the mode they are in instead of the one they were traced in."""


def trace(module: nn.Module) -> fx.Graph:
    """The operations of `module` in the modes that it is in, for images alone; assertions are left out.

    Raises:
        Exception: whatever a network raises that cannot be traced, e.g. `torch.fx.proxy.TraceError`.
    """
    graph = _Tracer().trace(module, concrete_args=_defaults(module))
    _drop_checks(graph)
    return graph


class _Tracer(fx.Tracer):
    """Knows what timm and torchvision want kept whole, and that other threads may run networks meanwhile.

    While it traces, torch.fx replaces `__call__` and `__getattr__` of all modules, in all threads: one thread traces at
    a time, and what the others run goes through untouched.
    """

    _one_at_a_time = threading.RLock()

    def __init__(self) -> None:
        super().__init__(
            autowrap_functions=tuple(get_notrace_functions()),  # type: ignore[no-untyped-call]  # timm: no annotation
            # The shape of a parameter depends on no image, so code may branch on it.
            param_shapes_constant=True,
        )
        self._whole = (*RANDOM, *get_notrace_modules())  # type: ignore[no-untyped-call]  # timm: no annotation

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        with self._one_at_a_time:
            self._thread = threading.get_ident()
            return super().trace(root, concrete_args)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self._whole) or super().is_leaf_module(m, module_qualified_name)


def _defaults(module: nn.Module) -> dict[str, Any]:
    """Every argument but the images has its default; traced as unknown, `if mask is not None` would be true."""
    parameters = list(inspect.signature(type(module).forward).parameters.values())[2:]
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _drop_checks(graph: fx.Graph) -> None:
    """Take out assertions, and the arguments that only assertions look at."""
    for node in reversed(list(graph.nodes)):  # from the end, so that a node is free when its turn comes
        name = getattr(node.target, "__name__", "")
        if node.op == "call_function" and name in ("_assert", "_assert_is_none"):
            graph.erase_node(node)
    for node in list(graph.nodes)[1:]:
        if node.op == "placeholder" and not node.users:
            graph.erase_node(node)

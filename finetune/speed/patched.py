"""Temporarily replaces modules' `forward` with an equivalent, faster one, for the thread that asks for it.

What it gains is what the patches gain (`training_patches.py`, `linear.py`); by itself it costs some microseconds a
pass. Several threads may run one network at once, each with patches of its own or with none: a patched module has a
dispatcher in place of its `forward`, which does what the calling thread asked for, else what the module itself does.

What would break it: replacing `forward` for good or for all threads at once. A server that predicts with a network
while another thread trains it would then run training's forward in inference. So the dispatcher is shared, the choice
is the thread's own, and the last thread to leave takes the dispatcher out (`_PATCHED` counts them).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

_LOCK = threading.Lock()
_PATCHED: dict[int, int] = {}
"""id of a module → how many passes, in all threads, run with a patch of it."""


class _ThreadForwards(threading.local):
    """The patches of the calling thread: id of a module → what it does instead."""

    def __init__(self) -> None:
        self.forwards: dict[int, Callable[..., torch.Tensor]] = {}


_THREAD = _ThreadForwards()


class Patch(NamedTuple):
    """A module, and what it does instead of its own `forward`."""

    module: nn.Module
    forward: Callable[..., torch.Tensor]


class Patches:
    """A context for a forward pass: inside, in this thread, each module runs its patch; outside, it is as it was.

    Weights, modes and hooks work as ever. May be entered by several threads at once, but not twice by one.
    """

    def __init__(self, patches: Iterable[Patch]) -> None:
        self.patches = [patch for patch in patches if _is_plain(patch.module)]
        self._forwards = {id(module): forward for module, forward in self.patches}
        self._dispatchers = [(module, _Dispatcher(module)) for module, _forward in self.patches]
        self._before = threading.local()

    def __enter__(self) -> None:
        if not self.patches:
            return
        self._before.forwards = _THREAD.forwards
        with _LOCK:
            for module, dispatcher in self._dispatchers:
                _PATCHED[id(module)] = _PATCHED.get(id(module), 0) + 1
                vars(module)["forward"] = dispatcher
        _THREAD.forwards = {**_THREAD.forwards, **self._forwards}

    def __exit__(self, *_: object) -> None:
        if not self.patches:
            return
        _THREAD.forwards = self._before.forwards
        with _LOCK:
            for module, _dispatcher in self._dispatchers:
                _PATCHED[id(module)] -= 1
                if not _PATCHED[id(module)]:
                    del _PATCHED[id(module)]
                    vars(module).pop("forward", None)


class _Dispatcher:
    """The `forward` of a module that some thread has patched."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        patched = _THREAD.forwards.get(id(self.module))
        if patched is None:
            return type(self.module).forward(self.module, *args, **kwargs)
        return patched(*args, **kwargs)


def _is_plain(module: nn.Module) -> bool:
    """Whether nobody but this room has given the module a `forward` of its own."""
    assigned = vars(module).get("forward")
    return assigned is None or isinstance(assigned, _Dispatcher)

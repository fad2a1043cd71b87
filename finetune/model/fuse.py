"""A convolution and what directly follows it, as one operation: an addition, an activation.

For inference on a CPU only. PyTorch's own elementwise kernels go over all values once more, and in bf16 take about as
long as the convolution; oneDNN does both while the values are at hand (its post-ops, which torch.compile uses too).
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import fx, nn
from torch.nn import functional

from finetune.device import computes_in, lies_by_pixel
from finetune.model.fold import Folded
from finetune.model.trace import fetch

ADDITIONS = (operator.add, operator.iadd, torch.add)
RELU = (functional.relu, torch.relu)
ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.Identity: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
    nn.Hardswish: ("hardswish", []),
}
"""Activation → what oneDNN's operator calls it, and its numbers."""
AFTER_ADDITION = (nn.Identity, nn.ReLU)
"""Those that it does after an addition as well."""


class Fused(nn.Module):
    """A convolution, perhaps an addition, perhaps an activation.

    Where gradients are asked for, or oneDNN is not to be had, it does one after the other.

    Args:
        conv: the convolution, `Folded` or not.
        act: one of `ACTIVATIONS`; with an addition, of `AFTER_ADDITION`.
        fixed: its weights stay as they are at the first call; else those of a call are its own, except inside `steady`.
    """

    def __init__(self, conv: nn.Conv2d | Folded, act: nn.Module, *, fixed: bool) -> None:
        super().__init__()
        self.conv, self.act, self.fixed = conv, act, fixed
        self.form = conv.conv if isinstance(conv, Folded) else conv
        self.kernels: dict[Any, tuple[torch.Tensor, torch.Tensor | None]] = {}

    def forward(self, images: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """`act(conv(images) + other)`, float [N, C, H, W]."""
        dtype = computes_in(images)
        if torch.is_grad_enabled() or not images.is_cpu or not has_post_ops(dtype):
            return self._in_turn(images, other)
        form, name, numbers = self.form, *ACTIVATIONS[type(self.act)]
        sides = [self._side(axis, images.shape[2 + axis]) for axis in (0, 1)]
        if None in sides:
            return self._in_turn(images, other)
        padding, extra, size = zip(*sides, strict=True)
        kernel, bias = self._kernel(dtype, extra)
        values, shape = images.to(dtype), (form.stride, padding, form.dilation, form.groups)
        if other is not None and not adds(other, values, (form.out_channels, *size)):
            return self._in_turn(images, other)
        return joined(values, kernel, bias, other, shape, name, numbers)

    def _in_turn(self, images: torch.Tensor, other: torch.Tensor | None) -> torch.Tensor:
        values = self.conv(images)
        found: torch.Tensor = self.act(values if other is None else values + other)
        return found

    def _side(self, axis: int, length: int) -> tuple[int, int, int] | None:
        """Along one axis: padding on either side, rows of zeros to put before the kernel, and what length comes out."""
        form = self.form
        size, stride, dilation = form.kernel_size[axis], form.stride[axis], form.dilation[axis]
        if not isinstance(form, Conv2dSame):
            padding = int(form.padding[axis])
            return padding, 0, (length + 2 * padding - dilation * (size - 1) - 1) // stride + 1
        # As in TensorFlow: as many come out as fit, and where the padding is odd, there is one more at the end. The
        # operator pads both ends alike; a kernel that begins with a row of zeros makes up for it.
        out = -(-length // stride)
        total = max((out - 1) * stride + dilation * (size - 1) + 1 - length, 0)
        uneven = total % 2
        return None if uneven and dilation > 1 else ((total + 1) // 2, uneven, out)

    def weights(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Kernel, [D, C / groups, height, width], and bias, [D] or none, with the way back to what learns."""
        return self.conv.kernel() if isinstance(self.conv, Folded) else (self.form.weight, self.form.bias)

    def _kernel(self, dtype: torch.dtype, extra: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Kernel and bias; of what learns made anew each time, as fused optimizers change weights without a trace."""
        if (found := self.kernels.get((dtype, extra))) is not None:
            return found
        kernel, bias = self.weights()
        kernel = functional.pad(kernel.detach().to(dtype), (extra[1], 0, extra[0], 0))
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        made = kernel, None if bias is None else bias.detach().to(dtype)
        if self.fixed:
            self.kernels[dtype, extra] = made
        return made


def adds(other: torch.Tensor, images: torch.Tensor, size: tuple[int, ...]) -> bool:
    """Whether `joined` can add `other` to a convolution of `images` that gives `size` [D, H, W] for each."""
    if other.dtype != images.dtype or tuple(other.shape) != (len(images), *size):
        return False
    return lies_by_pixel(images) and lies_by_pixel(other)  # else it adds by itself, and not in bf16


def joined(
    images: torch.Tensor,
    kernel: torch.Tensor,
    bias: torch.Tensor | None,
    other: torch.Tensor | None,
    shape: tuple[Sequence[int], Sequence[int], Sequence[int], int],
    act: str,
    numbers: list[float],
) -> torch.Tensor:
    """`act(conv2d(images) + other)` by oneDNN, all of one type; without a gradient.

    Args:
        images: float [N, C, H, W].
        kernel: float [D, C / groups, height, width].
        bias: float [D], or none.
        other: what to add, of which `adds` is true, or none.
        shape: stride, padding, dilation and groups.
        act: as oneDNN's operator calls it, with its `numbers`; after an addition none or relu.
    """
    stride, padding, dilation, groups = shape
    conv, walk = torch.ops.mkldnn._convolution_pointwise, (list(padding), list(stride), list(dilation), groups)
    found: torch.Tensor
    if other is None:
        found = conv(images, kernel, bias, *walk, act, numbers, "")
    else:
        last = None if act == "none" else act
        found = conv.binary(images, other, kernel, bias, *walk, "add", 1.0, last, numbers, "")
    return found


@contextlib.contextmanager
def steady(part: object) -> Iterator[None]:
    """Inside, the weights of `part` stay as they are, so that kernels are made of them once."""
    learning = (
        [one for one in part.modules() if isinstance(one, Fused) and not one.fixed]
        if isinstance(part, nn.Module)
        else []
    )
    for one in learning:
        one.fixed = True
    try:
        yield
    finally:
        for one in learning:
            one.fixed = False
            one.kernels.clear()


@functools.cache
def has_post_ops(dtype: torch.dtype) -> bool:
    """Whether oneDNN's operators are there for these numbers, on this machine; found out by trying."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    images = torch.linspace(-1, 1, 64).reshape(1, 4, 4, 4).contiguous(memory_format=torch.channels_last)
    kernel, arguments = torch.linspace(-1, 1, 16).reshape(4, 4, 1, 1), ([0, 0], [1, 1], [1, 1], 1)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        expected = functional.relu(functional.conv2d(images, kernel) + images)
        try:
            found = torch.ops.mkldnn._convolution_pointwise.binary(
                images.to(dtype), images.to(dtype), kernel.to(dtype), None, *arguments, "add", 1.0, "relu", [], ""
            )
        except (RuntimeError, AttributeError):
            return False
    return torch.allclose(found.float(), expected, atol=0.05)


# --- finding them in a graph -----------------------------------------------------------------------------------------


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
        if _runs(module):
            chain = _chain(node, modules, taken)
            taken.update(chain.nodes)
            chains.append(chain)
    if not any(len(chain.nodes) > 1 for chain in chains):
        return graph
    root: dict[str, Any] = {str(node.target): module for node, module in modules.items()}
    root |= {str(n.target): fetch(graph, str(n.target)) for n in graph.graph.nodes if n.op == "get_attr"}
    due = {chain.addition or chain.nodes[0]: (number, chain) for number, chain in enumerate(chains)}
    fused, made = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in graph.graph.nodes:
        if node in due:
            number, chain = due[node]
            name = f"fused_{number}"
            root[name] = Fused(modules[chain.nodes[0]], chain.act, fixed=fixed)
            inputs = [source for source in (chain.nodes[0].args[0], chain.other) if isinstance(source, fx.Node)]
            result = fused.call_module(name, tuple(made[source] for source in inputs))
            made.update(dict.fromkeys(chain.nodes, result))
        elif node not in taken:
            made[node] = fused.node_copy(node, made.__getitem__)
    return fx.GraphModule(root, fused)


def _runs(module: object) -> bool:
    """Whether it is a convolution that oneDNN's operator can do."""
    form = module.conv if isinstance(module, Folded) else module
    if type(form) is Conv2dSame:
        return True
    return type(form) is nn.Conv2d and form.padding_mode == "zeros" and not isinstance(form.padding, str)


def _chain(conv: fx.Node, modules: dict[fx.Node, nn.Module], taken: set[fx.Node]) -> _Chain:
    """What follows a convolution and may be done with it; nothing of it is `taken` already."""
    chain = _Chain([conv])

    def follow() -> fx.Node | None:
        """The one user of the chain's result, past what does nothing."""
        while True:
            users = list(chain.nodes[-1].users)
            if len(users) != 1 or users[0] in taken:
                return None
            if not _idle(modules.get(users[0])):
                return users[0]
            chain.nodes.append(users[0])

    user = follow()
    if user is not None and (other := _added(user, chain.nodes[-1])) is not None and _may_wait(conv, user):
        chain.addition, chain.other = user, other
        chain.nodes.append(user)
        user = follow()
    if user is not None:
        act = nn.ReLU() if user.op == "call_function" and user.target in RELU else modules.get(user)
        known = ACTIVATIONS if chain.addition is None else AFTER_ADDITION
        if type(act) in known and act is not None:
            chain.act = act
            chain.nodes.append(user)
    return chain


def _idle(module: nn.Module | None) -> bool:
    return type(module) is nn.Identity or (isinstance(module, nn.Dropout) and not module.training)


def _added(node: fx.Node, result: fx.Node) -> fx.Node | None:
    """What `node` adds to the result; None if that is not what it does, or if it changes something else by it."""
    if node.op != "call_function" or node.target not in ADDITIONS or len(node.args) != 2 or node.kwargs:
        return None
    first, second = node.args
    if node.target is operator.iadd and first is not result:
        return None
    other = second if first is result else first
    return other if isinstance(other, fx.Node) and other is not result else None


def _may_wait(conv: fx.Node, until: fx.Node) -> bool:
    """Whether the convolution's input is surely the same when `until` runs: only convolutions read it before."""
    (source,) = conv.all_input_nodes
    node, between = conv.next, set[fx.Node]()
    while node is not until:
        between.add(node)
        node = node.next
    graph = conv.graph.owning_module
    readers = [user for user in source.users if user in between]
    return all(r.op == "call_module" and graph is not None and _runs(fetch(graph, str(r.target))) for r in readers)

"""A head that reads several stages: the pooled outputs of the last layer groups beside the network's last output.

Later layers know more of what the network was trained for, earlier ones more of texture and shape, which is what tells
classes apart that are far from ImageNet's. The head is one linear layer all the same, in the old one's place and under
its name, so that state dicts, layer groups, freezing and saving are as ever; its weight has more columns.

The other outputs come to it by forward hooks on the groups' modules, pooled at once. They are kept by thread and taken
out when the head runs: a network may serve several threads, and a copy of it keeps its own. Tracing and exporting run
hooks as they run everything else.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from finetune.model.groups import FINAL, HEAD, STEM
from finetune.model.network import Network

MOST_STAGES = 3
"""Layer groups that are read besides the last output; five were no better than three."""


class Taps:
    """Pooled outputs that the hooks have kept in this thread's forward pass: group → [N, channels]."""

    def __init__(self) -> None:
        self._local = threading.local()

    def __deepcopy__(self, memo: dict[int, Any]) -> Taps:
        return Taps()

    @property
    def values(self) -> dict[str, torch.Tensor]:
        """The pooled outputs of this thread."""
        if not hasattr(self._local, "values"):
            self._local.values = {}
        pooled: dict[str, torch.Tensor] = self._local.values
        return pooled


class Tap:
    """A forward hook: the mean of a module's output over space or tokens, kept under the group's name."""

    def __init__(self, taps: Taps, group: str, axes: tuple[int, ...]) -> None:
        self.taps, self.group, self.axes = taps, group, axes

    def __call__(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        """Called by PyTorch after the module has run."""
        self.taps.values[self.group] = output.mean(self.axes) if self.axes else output


class StagesHead(nn.Linear):
    """A linear layer on the pooled stages and the last output, side by side, in this order.

    Args:
        widths: layer group → its channels, in forward order.
        last: width of the network's last output.
        classes: outputs.
        taps: where the hooks put what they have pooled.
    """

    def __init__(self, widths: Mapping[str, int], last: int, classes: int, taps: Taps) -> None:
        super().__init__(sum(widths.values()) + last, classes)
        self.widths, self.last, self.taps = dict(widths), last, taps

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Logits [N, classes] from the last output, [N, last], and what the hooks have kept."""
        values = self.taps.values
        stages = [values.pop(group) for group in self.widths]
        return super().forward(torch.cat([*stages, input], dim=1))

    def joined(self, last: torch.Tensor) -> torch.Tensor:
        """All that it reads, float [N, in_features], while it is about to be called with the last output."""
        return torch.cat([*(self.taps.values[group] for group in self.widths), last], dim=1)


def read_stages(network: Network, proven: bool = False) -> str:
    """Let the head of `network` read its stages as well; it begins with zeros for them.

    Args:
        network: with a linear head, in eval mode; changed in place.
        proven: it is known that the network can be cut before such a head.

    Returns:
        Why it stays with the last output, for people; empty where it now reads the stages.
    """
    module, head = network.module, network.module.get_submodule(network.head)
    if network.more_heads or not isinstance(head, nn.Linear) or head.bias is None:
        return "its head is not one linear layer"
    groups = [group for group in network.groups if group not in (STEM, FINAL, HEAD)][-MOST_STAGES:]
    modules = {group: name for group in groups if (name := _module_of(module, group, network.groups[group]))}
    axes, widths = _shapes(network, modules)
    if not widths:
        return "none of its layer groups gives maps or tokens"
    taps = Taps()
    wide = StagesHead(widths, head.in_features, head.out_features, taps).to(head.weight.device)
    with torch.no_grad():
        # zeros for the stages: it answers as before, until it learns
        wide.weight.zero_()
        wide.weight[:, -head.in_features :] = head.weight
        wide.bias.copy_(head.bias)
    handles = [
        module.get_submodule(modules[group]).register_forward_hook(Tap(taps, group, axes[group])) for group in widths
    ]
    # tried before it is kept: a network that cannot be cut here would compute its frozen layers in every epoch
    module.set_submodule(network.head, wide)
    problem = "" if proven else _untraceable(network)
    if problem:
        for handle in handles:
            handle.remove()
        module.set_submodule(network.head, head)
        return problem
    network.features = "stages"
    return ""


def read_last(network: Network) -> None:
    """Let the head of `network` read its last output only, by the weights that it has for that."""
    head = network.module.get_submodule(network.head)
    if not isinstance(head, StagesHead):
        return
    narrow = nn.Linear(head.last, head.out_features).to(head.weight.device)
    with torch.no_grad():
        narrow.weight.copy_(head.weight[:, -head.last :])
        narrow.bias.copy_(head.bias)
    for child in network.module.modules():
        for number in [number for number, hook in child._forward_hooks.items() if isinstance(hook, Tap)]:
            del child._forward_hooks[number]
    narrow.train(head.training)
    network.module.set_submodule(network.head, narrow)
    network.features = "last"


def reads_only_last(network: Network) -> bool:
    """Whether the head has zeros for all stages, so that it might as well not read them."""
    head = network.module.get_submodule(network.head)
    if not isinstance(head, StagesHead):
        return True
    return not bool(head.weight[:, : -head.last].any())


def feature_groups(network: Network) -> dict[str, int]:
    """The inputs of the head from left to right: layer group → width, the last output under `last`."""
    head = network.module.get_submodule(network.head)
    if isinstance(head, StagesHead):
        return {**head.widths, "last": head.last}
    return {"last": head.in_features} if isinstance(head, nn.Linear) else {}


def _module_of(module: nn.Module, group: str, names: Sequence[str]) -> str:
    """The module whose output is the group's: that of its name, else the last one in it that has weights."""
    modules = dict(module.named_modules())
    if group in modules:
        return group
    return names[-1].rpartition(".")[0] if names else ""


def _shapes(network: Network, modules: Mapping[str, str]) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Group → the axes to average over, and group → channels, as one picture shows them."""
    axes_of: dict[str, tuple[int, ...]] = {}
    shapes: dict[str, torch.Size] = {}

    def note(group: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                shapes[group] = output.shape

        return hook

    handles = [network.module.get_submodule(name).register_forward_hook(note(group)) for group, name in modules.items()]
    try:
        with torch.no_grad():
            network.module(network.preprocess.example().to(next(network.module.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    widths: dict[str, int] = {}
    for group, shape in shapes.items():
        axes = _axes(shape, network.preprocess.size)
        if axes is not None:
            axes_of[group] = axes
            widths[group] = int(next(size for axis, size in enumerate(shape) if axis and axis not in axes))
    return axes_of, widths


def _axes(shape: torch.Size, size: tuple[int, int]) -> tuple[int, ...] | None:
    """The axes of space or tokens; channels come last in [N, tokens, C], and in [N, H, W, C] by the picture's shape."""
    if len(shape) == 2:
        return ()
    if len(shape) == 3:
        return (1,)
    if len(shape) == 4:
        ratio = size[0] / size[1]
        first, last = (abs(shape[axis] / shape[axis + 1] / ratio - 1) for axis in (1, 2))
        return (1, 2) if first < last else (2, 3)
    return None


def _untraceable(network: Network) -> str:
    """Why the network cannot be cut before such a head, empty if it can."""
    from finetune.model.cut import cut  # tracing is slow to import, and needed here only

    names = {f"{network.head}.{name}" for name in ("weight", "bias")}
    head = network.module.get_submodule(network.head)
    assert isinstance(head, nn.Linear)
    parts = cut(network.module, names, example=network.preprocess.example())
    if parts.no_prefix or parts.bytes_per_image != 4 * head.in_features:
        return f"it cannot be traced that far (cut {parts.where})"
    return ""

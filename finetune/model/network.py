"""A network together with everything one must know to use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from finetune.data.preprocess import Preprocess
from finetune.model.lineage import Base

HeadSpec = str | Mapping[str, Any]
"""``linear``, or ``{hidden: [128], activation: relu, dropout: 0.2}``."""


@dataclass
class Network:
    """A classifier: float32 [N, channels, height, width] in, logits [N, classes] out.

    Attributes:
        module: the network itself, in eval mode as it comes from `build`.
        architecture: ``timm/NAME``, ``torchvision/NAME`` or ``small/NAME``.
        options: what the architecture was built with, besides the number of classes and channels.
        classes: names, in the order of the logits.
        preprocess: from a picture to the input.
        head: dotted module name of the new classifier.
        groups: layer group → state-dict names of its tensors (parameters and buffers), in forward order, `head` last.
        source: where the weights came from.
        notes: what of the weights was not used or not found, one line each.
        features: what the head reads: `last`, or `stages` (see `finetune.model.stages`).
        choose_features: it may be found out that a head that reads stages is better without them.
        head_spec: what the head was built from.
        missing: tensors of the backbone that the weights did not hold, so that they are random.
        pretrained: whether weights were loaded, so that the backbone has learned something already.
        loss: what it was trained with; decides how logits become probabilities.
        backbone: what ``backbone: auto`` came to, a name that `build` takes; empty where it was named.
        base: the weights that it started from; None from scratch.
        temperature: by which logits are divided before they become probabilities; 1 where none was fitted.
        threshold: confidence below which the answer is "not sure"; None: every answer is given.
        auto_threshold: the lowest confidence at which answers were right in 95 % of the cases; None: none was.
        more_heads: further classifiers beside `head`, which distilled transformers have.
    """

    module: nn.Module
    architecture: str
    options: dict[str, Any]
    classes: list[str]
    preprocess: Preprocess
    head: str
    groups: dict[str, list[str]]
    source: str
    notes: list[str] = field(default_factory=list)
    head_spec: HeadSpec = "linear"
    missing: list[str] = field(default_factory=list)
    features: str = "last"
    choose_features: bool = False
    pretrained: bool = True
    loss: str = "cross_entropy"
    backbone: str = ""
    temperature: float = 1.0
    threshold: float | None = None
    auto_threshold: float | None = None
    base: Base | None = None
    more_heads: tuple[str, ...] = ()

    @property
    def heads(self) -> tuple[str, ...]:
        """Dotted names of all classifiers."""
        return (self.head, *self.more_heads)

    @property
    def in_chans(self) -> int:
        """Channels of the input: 3 for colour, 1 for grey."""
        return self.preprocess.channels

    @property
    def parameters(self) -> dict[str, int]:
        """Parameter name → number of values."""
        return {name: parameter.numel() for name, parameter in self.module.named_parameters()}

    @property
    def light(self) -> bool:
        """Whether a picture is little work: no convolutions, and so few weights that each is used but once or so."""
        few = sum(self.parameters.values()) < 1_000_000
        return few and not any(isinstance(child, nn.Conv2d) for child in self.module.modules())

    @property
    def convolutional(self) -> bool:
        """Whether convolutions do the work, so that channels_last pays; a transformer has a few of them at most."""
        return sum(isinstance(child, nn.Conv2d) for child in self.module.modules()) > 4

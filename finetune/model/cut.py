"""The cut at the freeze line: a frozen prefix, and the suffix that learns."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import nn

Values = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Cut:
    """A network in two parts: `suffix(*prefix(images))` are its logits.

    Attributes:
        prefix: images, float32 [N, C, H, W] → the values that cross the freeze line. Nothing in it learns.
        suffix: those values → logits, float [N, classes].
        where: what a person calls this cut.
    """

    prefix: Callable[[torch.Tensor], Values]
    suffix: Callable[..., torch.Tensor]
    where: str


def cut(module: nn.Module, learning: Collection[str]) -> Cut:
    """Cut `module` for a phase in which the parameters named in `learning` learn.

    All of the network is suffix: images are the values that cross. Autograd skips what is frozen below the lowest
    learning layer by itself.
    """
    return Cut(prefix=lambda images: (images,), suffix=module, where="at the images")

"""Composition: the same function by a narrow deep network and by a wide shallow one.

The tent map goes up and down once. Put through itself k times it has 2^k slopes, and a ReLU network does that with k
layers of two neurons. In a single hidden layer every bend takes a neuron of its own: n neurons, n bends at most.

    python examples/lessons/08_composition.py --draw docs/pictures/08_composition.png

Expected output:

     k  slopes   deep: neurons  parameters   wide: neurons  parameters   largest difference
     1       2               2           7               2           7                    0
     2       4               4          13               4          13                    0
     4      16               8          25              16          49                    0
     6      64              12          37              64         193                    0
     8     256              16          49             256         769                    0
    10    1024              20          61            1024        3073                    0
"""

from __future__ import annotations

from pathlib import Path

import torch
from picture import BLUE, RUST, drawing, start
from torch import nn

from finetune.model.small import MLP


def network(hidden: list[int], layers: list[tuple[list[list[float]], list[float]]]) -> MLP:
    """A ReLU network from one number to one number with the given (W, b) for each layer."""
    net = MLP(inputs=1, hidden=hidden, classes=1, activation="relu", dropout=0.0, pieces=2).double()
    with torch.no_grad():
        for layer, (weights, biases) in zip((getattr(net, name) for name in net.names), layers, strict=True):
            layer.weight.copy_(torch.tensor(weights))
            layer.bias.copy_(torch.tensor(biases))
    return net


def deep(k: int) -> MLP:
    """k hidden layers of two: tent(x) = 2 relu(x) - 4 relu(x - 1/2), then the tent of that, and so on."""
    first = ([[1.0], [1.0]], [0.0, -0.5])
    again = ([[2.0, -4.0], [2.0, -4.0]], [0.0, -0.5])
    return network([2] * k, [first, *[again] * (k - 1), ([[2.0, -4.0]], [0.0])])


def wide(k: int) -> MLP:
    """One hidden layer of 2^k: a first slope of 2^k, and a bend by twice that at every multiple of 1/2^k."""
    pieces = 2**k
    bends = [float(pieces)] + [2.0 * pieces * (-1) ** number for number in range(1, pieces)]
    return network([pieces], [([[1.0]] * pieces, [-number / pieces for number in range(pieces)]), ([bends], [0.0])])


def size(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def main() -> None:
    file = start(__doc__)
    x = torch.linspace(0, 1, 2**14 + 1, dtype=torch.float64)[:, None]  # multiples of 1/2^14: no rounding at all
    print(" k  slopes   deep: neurons  parameters   wide: neurons  parameters   largest difference")
    sizes = []
    for k in range(1, 11):
        narrow, broad = deep(k), wide(k)
        sizes.append((size(narrow), size(broad)))
        with torch.no_grad():
            worst = (narrow(x) - broad(x)).abs().max()
        if k in (1, 2, 4, 6, 8, 10):
            print(f"{k:2} {2**k:7} {2 * k:15} {sizes[-1][0]:11} {2**k:15} {sizes[-1][1]:11} {worst:20g}")
    if file:
        draw(file, sizes)


def draw(file: Path, sizes: list[tuple[int, int]]) -> None:
    x = torch.linspace(0, 1, 1025, dtype=torch.float64)[:, None]
    with drawing(file, 9.6, 3.0) as figure:
        *tents, count = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.5])
        for axes, k in zip(tents, (1, 2, 4), strict=True):
            axes.plot(x, deep(k)(x).detach(), color=BLUE, linewidth=1.6)
            axes.set(title=f"k = {k}: {2**k} slopes", xticks=[0, 1], yticks=[0, 1], ylim=(0, 1.03))
        count.set(title="parameters", yscale="log", xlabel="k", xticks=[1, 4, 7, 10])
        for column, (name, colour) in enumerate((("deep", BLUE), ("wide", RUST))):
            numbers = [pair[column] for pair in sizes]
            count.plot(range(1, 11), numbers, "o-", color=colour, markersize=4)
            count.text(7.7, 1.35 * numbers[7], name, ha="right", color=colour, fontsize=11)


if __name__ == "__main__":
    main()

"""Activation functions, their derivatives, and what is done at ReLU's kink.

Autograd's derivative is checked against (f(x + ε) - f(x - ε)) / 2ε. At 0 ReLU has none: its slope is 0 on the left and
1 on the right, and any number between serves as a subgradient. PyTorch takes 0; a pre-activation is hardly ever just 0.

    python examples/lessons/04_activations.py --draw docs/pictures/04_activations.png

Expected output:

    f             f(-2)    f(0)    f(2)  f'(-2)   f'(0)   f'(2)   steepest
    sigmoid       0.119   0.500   0.881   0.105   0.250   0.105   0.250
    tanh         -0.964   0.000   0.964   0.071   1.000   0.071   1.000
    relu          0.000   0.000   2.000   0.000   0.000   1.000   1.000
    leaky_relu   -0.020   0.000   2.000   0.010   0.010   1.000   1.000
    elu          -0.865   0.000   2.000   0.135   1.000   1.000   1.000
    gelu         -0.046   0.000   1.954  -0.085   0.500   1.085   1.129
    maxout        0.000   0.000   1.500  -0.500   0.200   1.000   1.000
    autograd and differences agree to 1e-8 away from the kinks: True
    ReLU at 0: slope 0 on the left, 1 on the right; autograd takes 0 for relu(x), 0.5 for maximum(x, 0)
    pre-activations that are exactly 0: 0 of 1,024,000
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from picture import BLUE, GREY, INK, RUST, drawing, start
from torch import nn

from finetune.model.small import ACTIVATIONS, Maxout

Function = Callable[[torch.Tensor], torch.Tensor]
LINES = torch.tensor([[-0.5, -1.0], [0.2, 0.0], [1.0, -0.5]], dtype=torch.float64)


def maxout(x: torch.Tensor) -> torch.Tensor:
    """The largest of three lines; a maxout neuron learns its lines, these are fixed."""
    values: torch.Tensor = Maxout(pieces=3)(x[:, None] * LINES[:, 0] + LINES[:, 1])[:, 0]
    return values


FUNCTIONS: dict[str, Function] = {name: make() for name, make in ACTIVATIONS.items()} | {"maxout": maxout}


def slope(function: Function, at: torch.Tensor) -> torch.Tensor:
    """The derivative at each point, by autograd."""
    points = at.clone().requires_grad_()
    return torch.autograd.grad(function(points).sum(), points)[0]


def difference(function: Function, at: torch.Tensor, step: float = 1e-6) -> torch.Tensor:
    """The derivative at each point, by a central difference."""
    return (function(at + step) - function(at - step)) / (2 * step)


def main() -> None:
    file = start(__doc__)
    points = torch.tensor([-2.0, 0.0, 2.0], dtype=torch.float64)
    axis = torch.linspace(-4, 4, 802, dtype=torch.float64)  # an even number of points: 0 is not among them
    print("f             f(-2)    f(0)    f(2)  f'(-2)   f'(0)   f'(2)   steepest")
    worst = 0.0
    for name, function in FUNCTIONS.items():
        slopes = slope(function, axis)
        worst = max(worst, float((slopes - difference(function, axis)).abs().max()))
        row = [*function(points), *slope(function, points), slopes.max()]
        print(f"{name:11}" + "".join(f"{value:8.3f}" for value in row))
    print("autograd and differences agree to 1e-8 away from the kinks:", worst < 1e-8)

    zero = torch.zeros(1, dtype=torch.float64)
    left, right = (difference(torch.relu, zero + side, 1e-7).item() for side in (-1e-6, 1e-6))
    taken = [slope(function, zero).item() for function in (torch.relu, lambda x: torch.maximum(x, torch.zeros(1)))]
    print(f"ReLU at 0: slope {left:.0f} on the left, {right:.0f} on the right; ", end="")
    print("autograd takes {:g} for relu(x), {:g} for maximum(x, 0)".format(*taken))
    torch.manual_seed(0)
    z = nn.Linear(784, 128)(torch.rand(8000, 784))
    print(f"pre-activations that are exactly 0: {int((z == 0).sum())} of {z.numel():,}")
    if file:
        draw(file, axis)


def draw(file: Path, axis: torch.Tensor) -> None:
    with drawing(file, 9.6, 4.7) as figure:
        panels = figure.subplots(2, 4).ravel()
        for axes, (name, function) in zip(panels[:7], FUNCTIONS.items(), strict=True):
            axes.axhline(0, color=GREY, linewidth=0.6)
            axes.axvline(0, color=GREY, linewidth=0.6)
            steep = slope(function, axis)
            steep[1:][steep.diff().abs() > 0.05] = torch.nan  # a jump is no line
            axes.plot(axis, function(axis), color=BLUE, linewidth=2.2, label="f")
            axes.plot(axis, steep, color=RUST, linewidth=1.6, label="its slope")
            axes.set(title=name, ylim=(-1.4, 2.4), xticks=[-4, 0, 4], yticks=[-1, 0, 1, 2])
        panels[0].legend(loc="upper left")
        kink, x = panels[7], torch.tensor([-1.0, 1.0])
        for share in torch.linspace(0, 1, 11):
            kink.plot(x, share * x, color="#e3bfad", linewidth=1.2)
        kink.plot([-1, 1], [0, 0], color=RUST, linewidth=1.6, label="autograd: 0")
        kink.plot([-1, 0, 1], [0, 0, 1], color=BLUE, linewidth=2.2)
        kink.plot(0, 0, "o", color=INK, markersize=5)
        kink.set(title="ReLU's subgradients at 0", xlim=(-1, 1), ylim=(-0.6, 1.0), xticks=[0], yticks=[0, 1])
        kink.legend(loc="upper left")


if __name__ == "__main__":
    main()

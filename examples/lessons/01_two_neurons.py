"""Two neurons as one matrix product.

Two logistic regressions look at the same x. Worked out one at a time they give 69 and 43 before the sigmoid; stacked
into a matrix W with one row a neuron they give both in one product, x Wᵀ + b; a whole batch X takes one product too.

    python examples/lessons/01_two_neurons.py --draw docs/pictures/01_two_neurons.png

Expected output:

    one at a time   w1·x + b1 = 67 + 2 = 69
                    w2·x + b2 = 40 + 3 = 43
    at once         x Wᵀ + b  = [69, 43]
    nn.Linear(4, 2) of x      = [69, 43]
    the sigmoid of it         = [1.0, 1.0]
    a batch of 3    (3×4) (4×2) + (2) gives (3×2)
    MNIST           784 pixels, 10 neurons: W is 10×784, b has 10, together 7850 parameters
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import torch
from picture import BLUE, INK, PALE_BLUE, PALE_RUST, PAPER, RUST, bare, drawing, start
from torch import nn

x = torch.tensor([3.0, 4.0, 5.0, 6.0])
W = torch.tensor([[3.0, 2.0, 4.0, 5.0], [4.0, 3.0, 2.0, 1.0]])
b = torch.tensor([2.0, 3.0])


def main() -> None:
    file = start(__doc__)
    for neuron, (weights, bias) in enumerate(zip(W, b, strict=True), 1):
        weighted = sum(weight * value for weight, value in zip(weights, x, strict=True))
        label = "one at a time" if neuron == 1 else ""
        total = f"{weighted:.0f} + {bias:.0f} = {weighted + bias:.0f}"
        print(f"{label:16}w{neuron}·x + b{neuron} = {total}")
    z = x @ W.T + b
    print("at once         x Wᵀ + b  =", z.int().tolist())

    layer = nn.Linear(4, 2)  # it keeps W as it stands here: a row a neuron, a column a feature
    layer.load_state_dict({"weight": W, "bias": b})
    print("nn.Linear(4, 2) of x      =", layer(x).int().tolist())
    print("the sigmoid of it         =", torch.sigmoid(z).tolist())

    X = torch.stack([x, x + 1, x - 1])
    shapes = ("×".join(map(str, value.shape)) for value in (X, W.T, b, X @ W.T + b))
    print("a batch of 3    ({}) ({}) + ({}) gives ({})".format(*shapes))
    mnist = sum(parameter.numel() for parameter in nn.Linear(784, 10).parameters())
    print(f"MNIST           784 pixels, 10 neurons: W is 10×784, b has 10, together {mnist} parameters")
    if file:
        draw(file, z)


def draw(file: Path, z: torch.Tensor) -> None:
    neurons = [(PALE_BLUE, BLUE), (PALE_RUST, RUST)]
    with drawing(file, 7.6, 2.7) as figure:
        axes = figure.add_subplot(aspect="equal", xlim=(-0.2, 12.2), ylim=(-2.1, 2.8))
        bare(axes)
        for name, left, matrix in [("x", 0, x[None]), ("Wᵀ", 4.5, W.T), ("b", 7.25, b[None]), ("z", 10, z[None])]:
            height, width = matrix.shape
            axes.text(left + width / 2, height / 2 + 0.3, name, ha="center", fontsize=14, color=INK)
            for row, column in product(range(height), range(width)):
                paper, ink = (PAPER, INK) if name == "x" else neurons[column]
                x0, y0 = left + column, height / 2 - row
                axes.fill_between([x0 + 0.03, x0 + 0.97], y0 - 0.97, y0 - 0.03, color=paper)
                number = f"{matrix[row, column]:.0f}"
                axes.text(x0 + 0.5, y0 - 0.52, number, ha="center", va="center", fontsize=13, color=ink)
        for left, sign in [(4.25, "·"), (6.87, "+"), (9.62, "=")]:
            axes.text(left, 0, sign, ha="center", va="center", fontsize=16, color=INK)


if __name__ == "__main__":
    main()

"""Backpropagation by hand, against autograd.

A network of two layers, 64-32-10, sees 100 digits: forward, then by the chain rule from the loss back to every weight,
in a few lines. Autograd, which does those lines itself, gets the same numbers; so does moving one weight a little.

    python examples/lessons/06_backpropagation.py --draw docs/pictures/06_backpropagation.png

Expected output:

    loss                    2.32127355 by hand, 2.32127355 by autograd
    gradient of fc1.weight  0.07670154 by hand, 0.07670154 by autograd (norms)
    gradient of fc1.bias    0.00763722 by hand, 0.00763722 by autograd (norms)
    gradient of fc2.weight  0.18225335 by hand, 0.18225335 by autograd (norms)
    gradient of fc2.bias    0.06085502 by hand, 0.06085502 by autograd (norms)
    largest difference of 2410 derivatives is below 1e-15: True
    one weight of fc1       0.00099572 by hand, 0.00099572 by moving it
"""

from __future__ import annotations

from pathlib import Path

import torch
from picture import BLUE, INK, PALE_BLUE, RUST, bare, drawing, start
from sklearn.datasets import load_digits
from torch.nn import functional as F

from finetune.model.small import MLP

Tensors = dict[str, torch.Tensor]
digits = load_digits()
X = torch.tensor(digits.data[:100] / 16)  # float64: what rounding leaves is in the 16th digit
labels = torch.tensor(digits.target[:100])
Y = F.one_hot(labels, 10).double()


def by_hand(p: Tensors) -> tuple[torch.Tensor, Tensors]:
    """The cross-entropy and its gradient by every weight, from the last layer to the first."""
    W1, b1, W2, b2 = p.values()
    h = torch.sigmoid(X @ W1.T + b1)
    softmax = torch.softmax(h @ W2.T + b2, 1)
    loss = -(Y * softmax.log()).sum(1).mean()
    d2 = (softmax - Y) / len(X)  # by z2: softmax and cross-entropy together leave only this
    d1 = d2 @ W2 * h * (1 - h)  # by z1: back through W2, times the sigmoid's slope
    return loss, dict(zip(p, (d1.T @ X, d1.sum(0), d2.T @ h, d2.sum(0)), strict=True))


def by_autograd(net: MLP) -> tuple[torch.Tensor, Tensors]:
    """The same, the way it is really done."""
    loss = F.cross_entropy(net(X), labels)
    loss.backward()
    return loss.detach(), {name: weight.grad for name, weight in net.named_parameters() if weight.grad is not None}


def by_moving(p: Tensors, name: str, index: tuple[int, int], step: float = 1e-5) -> float:
    """The gradient by one weight, from the loss a little to either side of it."""
    losses = []
    for side in (step, -step):
        moved = {**p, name: p[name].clone()}
        moved[name][index] += side
        losses.append(float(by_hand(moved)[0]))
    return (losses[0] - losses[1]) / (2 * step)


def main() -> None:
    file = start(__doc__)
    torch.manual_seed(0)
    net = MLP(inputs=64, hidden=[32], classes=10, activation="sigmoid", dropout=0.0, pieces=2).double()
    p = {name: weight.detach() for name, weight in net.named_parameters()}
    (loss, hand), (same, auto) = by_hand(p), by_autograd(net)
    print(f"loss                    {loss:.8f} by hand, {same:.8f} by autograd")
    for name in p:
        print(f"gradient of {name:10}  {hand[name].norm():.8f} by hand, {auto[name].norm():.8f} by autograd (norms)")
    worst = max(float((hand[name] - auto[name]).abs().max()) for name in p)
    numbers = sum(weight.numel() for weight in p.values())
    print(f"largest difference of {numbers} derivatives is below 1e-15: {worst < 1e-15}")
    one = ("fc1.weight", (3, 20))
    print(f"one weight of fc1       {hand[one[0]][one[1]]:.8f} by hand, {by_moving(p, *one):.8f} by moving it")
    if file:
        draw(file)


def draw(file: Path) -> None:
    forward = ["X", "z₁ = X W₁ᵀ + b₁", "h = sigmoid(z₁)", "z₂ = h W₂ᵀ + b₂", "p = softmax(z₂)\nL = −mean log p[y]"]
    back = ["", "δ₁ = δ₂ W₂ ⊙ h (1 − h)", "δ₂ W₂", "δ₂ = (p − Y) / n", "∂L/∂L = 1"]
    weights = {1: "∂L/∂W₁ = δ₁ᵀ X\n∂L/∂b₁ = Σ δ₁", 3: "∂L/∂W₂ = δ₂ᵀ h\n∂L/∂b₂ = Σ δ₂"}
    middles = [0.3, 2.0, 4.1, 6.1, 8.4]
    with drawing(file, 9.6, 2.9) as figure:
        axes = figure.add_subplot(xlim=(-0.1, 9.5), ylim=(-0.2, 2.9))
        bare(axes)
        for number, (x, ahead, behind) in enumerate(zip(middles, forward, back, strict=True)):
            box = {"boxstyle": "round,pad=0.5", "facecolor": PALE_BLUE, "edgecolor": "none"}
            axes.text(x, 2.5, ahead, ha="center", va="center", color=INK, fontsize=10.5, bbox=box)
            axes.text(x, 1.4, behind, ha="center", va="center", color=RUST, fontsize=10.5)
            if number in weights:
                axes.text(x, 0.1, weights[number], ha="center", va="center", color=RUST, fontsize=10.5)
                axes.annotate("", (x, 0.45), (x, 1.2), arrowprops={"arrowstyle": "->", "color": RUST})
        axes.text(0, 2.05, "forward", color=BLUE, fontsize=9)
        axes.text(0, 1.36, "backward", color=RUST, fontsize=9)
        for tail, head in [(0.55, 1.05), (2.95, 3.38), (4.85, 5.25), (7.1, 7.4)]:
            axes.annotate("", (head, 2.5), (tail, 2.5), arrowprops={"arrowstyle": "->", "color": BLUE, "lw": 1.6})
        for tail, head in [(7.8, 7.0), (5.2, 4.5), (3.7, 3.2)]:
            axes.annotate("", (head, 1.4), (tail, 1.4), arrowprops={"arrowstyle": "->", "color": RUST, "lw": 1.6})


if __name__ == "__main__":
    main()

"""The perceptron learns AND and OR, fails on XOR; two layers solve it.

Rosenblatt's rule moves the weights by y·x after a mistake: a step down the hinge loss max(0, margin - y·score) at
margin 0. It ends where a line can part the classes. For XOR none can, and three points of four is the best of any line.

    python examples/lessons/03_perceptron_xor.py --draw docs/pictures/03_perceptron_xor.png

Expected output:

    perceptron on AND    4 of 4 right, no mistake any more in epoch 9
    perceptron on OR     4 of 4 right, no mistake any more in epoch 6
    perceptron on XOR    makes mistakes in every one of 1000 epochs
    any line on XOR      3 of 4 right at best
    two layers on XOR    4 of 4 right, with 17 parameters
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from picture import BLUE, GREY, INK, PALE_BLUE, PALE_RUST, RUST, drawing, start

from finetune.model.small import MLP

X = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
TARGETS = {  # +1 is yes, -1 is no
    "AND": torch.tensor([-1.0, -1.0, -1.0, 1.0]),
    "OR": torch.tensor([-1.0, 1.0, 1.0, 1.0]),
    "XOR": torch.tensor([-1.0, 1.0, 1.0, -1.0]),
}
Scores = Callable[[torch.Tensor], torch.Tensor]


def perceptron(y: torch.Tensor, epochs: int = 1000) -> tuple[Scores, int]:
    """Rosenblatt's rule until an epoch goes by without a mistake; the scores, and that epoch or 0 for never."""
    w, b = torch.zeros(2), torch.zeros(1)
    epoch, mistakes = 0, len(X)
    while mistakes and epoch < epochs:
        epoch, mistakes = epoch + 1, 0
        for point, target in zip(X, y, strict=True):
            if target * (point @ w + b) <= 0:  # 0 is a mistake too, or nothing would ever begin
                w, b, mistakes = w + target * point, b + target, mistakes + 1
    return lambda x: x @ w + b, 0 if mistakes else epoch


def best_line(y: torch.Tensor) -> tuple[Scores, int]:
    """The line of 9³ that gets most points right, and how many; for four points these stand for all lines."""
    lines = torch.cartesian_prod(*[torch.linspace(-2, 2, 9)] * 3)
    best = max(lines, key=lambda line: correct(lambda x: x @ line[:2] + line[2], y))
    return lambda x: x @ best[:2] + best[2], correct(lambda x: x @ best[:2] + best[2], y)


def two_layers(y: torch.Tensor) -> tuple[Scores, int]:
    """A hidden layer of four neurons, trained on the hinge loss with margin 1; the scores and the parameters."""
    torch.manual_seed(0)
    network = MLP(inputs=2, hidden=[4], classes=1, activation="tanh", dropout=0.0, pieces=2)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(300):
        loss = torch.relu(1 - y * network(X)[:, 0]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return lambda x: network(x)[:, 0].detach(), sum(parameter.numel() for parameter in network.parameters())


def correct(scores: Scores, y: torch.Tensor) -> int:
    return int((y * scores(X) > 0).sum())


def main() -> None:
    file = start(__doc__)
    panels: list[tuple[str, torch.Tensor, Scores]] = []
    for name, y in TARGETS.items():
        scores, epoch = perceptron(y)
        if epoch:
            panels.append((f"{name}: perceptron", y, scores))
            print(f"perceptron on {name:6} {correct(scores, y)} of 4 right, no mistake any more in epoch {epoch}")
        else:
            print(f"perceptron on {name:6} makes mistakes in every one of 1000 epochs")
    scores, right = best_line(xor := TARGETS["XOR"])
    panels.append(("XOR: the best line", xor, scores))
    print(f"any line on XOR      {right} of 4 right at best")
    scores, parameters = two_layers(xor)
    panels.append(("XOR: two layers", xor, scores))
    print(f"two layers on XOR    {correct(scores, xor)} of 4 right, with {parameters} parameters")
    if file:
        draw(file, panels)


def draw(file: Path, panels: list[tuple[str, torch.Tensor, Scores]]) -> None:
    axis = np.linspace(-0.5, 1.5, 241, dtype=np.float32)
    grid = torch.tensor(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2))
    with drawing(file, 9.6, 2.9) as figure:
        for axes, (title, y, scores) in zip(figure.subplots(1, 4, sharey=True), panels, strict=True):
            height = scores(grid).reshape(241, 241)
            axes.contourf(axis, axis, height, levels=[-1e9, 0, 1e9], colors=[PALE_RUST, PALE_BLUE])
            axes.contour(axis, axis, height, levels=[0], colors=GREY, linewidths=1)
            for point, target in zip(X, y, strict=True):
                colour, sign = (BLUE, "1") if target > 0 else (RUST, "0")
                axes.scatter(*point.tolist(), s=230, color=colour, edgecolor="white", linewidth=1.5, zorder=2)
                looks: dict[str, Any] = {"ha": "center", "va": "center_baseline", "color": "white", "weight": "bold"}
                axes.annotate(sign, tuple(point.tolist()), **looks)
                if target * scores(point[None]) <= 0:
                    axes.annotate(
                        "wrong", tuple(point.tolist()), (0, 12), textcoords="offset points", ha="center", color=INK
                    )
            axes.set(title=title, aspect="equal", xticks=[0, 1], yticks=[0, 1], xlabel="x₁")
            axes.spines[:].set_visible(False)
        figure.axes[0].set_ylabel("x₂", rotation=0)


if __name__ == "__main__":
    main()

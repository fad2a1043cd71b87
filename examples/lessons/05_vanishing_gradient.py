"""The vanishing gradient: ten sigmoid layers against ten ReLU layers.

On the way back the gradient is multiplied by the slope of every activation it passes. A sigmoid's is a quarter at most,
so after ten layers next to nothing is left for the first one, and it does not learn. ReLU's is 1 wherever it is on.

    python examples/lessons/05_vanishing_gradient.py --draw docs/pictures/05_vanishing_gradient.png

Expected output:

    gradient norm in layer       1        4        7       10   first : last   accuracy after 200 steps
    sigmoid              4.3e-06  1.3e-04  1.3e-02  7.9e-01        5.4e-06   20 %
    ReLU                 4.7e+00  5.6e+00  8.6e+00  7.0e+00        6.7e-01   91 %
"""

from __future__ import annotations

from pathlib import Path

import torch
from picture import BLUE, GREY, RUST, drawing, start
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from finetune.model.small import MLP

STEPS = 200
digits = load_digits()
X, y = torch.tensor(digits.data / 8 - 1, dtype=torch.float32), torch.tensor(digits.target)


def network(activation: str) -> MLP:
    """Ten linear layers, each with the initialisation made for its activation: He's for ReLU, Glorot's for sigmoid."""
    torch.manual_seed(0)
    net = MLP(inputs=64, hidden=[64] * 9, classes=10, activation=activation, dropout=0.0, pieces=2)
    for layer in layers(net):
        if activation == "relu":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        else:
            nn.init.xavier_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return net


def layers(net: MLP) -> list[nn.Linear]:
    return [module for module in net.modules() if isinstance(module, nn.Linear)]


def gradient_norms(net: MLP) -> list[float]:
    """The norm of the loss's gradient by each layer's weights, first layer first, before any training."""
    F.cross_entropy(net(X[:256]), y[:256]).backward()
    return [float(torch.linalg.norm(layer.weight.grad)) for layer in layers(net)]


def accuracy_after_training(net: MLP) -> float:
    """On 450 digits that it has not seen, after STEPS steps of Adam."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(STEPS):
        batch = torch.randint(0, 1347, (128,))
        optimizer.zero_grad()
        F.cross_entropy(net(X[batch]), y[batch]).backward()
        optimizer.step()
    return float((net(X[1347:]).argmax(1) == y[1347:]).float().mean())


def main() -> None:
    file = start(__doc__)
    norms: dict[str, list[float]] = {}
    print("gradient norm in layer       1        4        7       10   first : last   accuracy after 200 steps")
    for name, activation in {"sigmoid": "sigmoid", "ReLU": "relu"}.items():
        net = network(activation)
        norms[name] = gradient_norms(net)
        some = "".join(f"{norms[name][number]:9.1e}" for number in (0, 3, 6, 9))
        share = norms[name][0] / norms[name][-1]
        print(f"{name:19}{some}   {share:12.1e}   {100 * accuracy_after_training(net):.0f} %")
    if file:
        draw(file, norms)


def draw(file: Path, norms: dict[str, list[float]]) -> None:
    numbers = range(1, 11)
    quarter = [norms["sigmoid"][-1] / 4 ** (10 - number) for number in numbers]
    with drawing(file, 6.4, 3.6) as figure:
        axes = figure.add_subplot(yscale="log", xticks=numbers, ylim=(1e-6, 30), xlabel="layer")
        axes.set_title("gradient norm before training")
        axes.plot(numbers, quarter, color=GREY, linestyle=":")
        axes.text(2.2, quarter[1] / 1.6, "a quarter at each layer", color=GREY, va="top")
        for name, colour in (("ReLU", BLUE), ("sigmoid", RUST)):
            axes.plot(numbers, norms[name], "o-", color=colour, linewidth=2)
            axes.text(
                4, norms[name][3] * (2 if name == "sigmoid" else 0.3), name, ha="right", color=colour, fontsize=11
            )


if __name__ == "__main__":
    main()

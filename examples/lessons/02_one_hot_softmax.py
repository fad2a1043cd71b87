"""One-hot vectors, ten one-vs-rest answers, and softmax.

Ten people look at a digit and each says how sure they are that it is "theirs": ten logistic regressions, trained at
once against one-hot vectors. Nobody makes them agree, so several may say yes, or nobody. Softmax shares out exactly 1.

    python examples/lessons/02_one_hot_softmax.py --draw docs/pictures/02_one_hot_softmax.png

Expected output:

    the one-hot vector of 5   [0, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    one-vs-rest     right on 89.6 % of 450 digits; said yes: nobody 74, one 371, several 5
    softmax         right on 91.3 % of 450 digits; every row sums to 1
    softmax(1000, 1001, 1002) straight from the formula   [nan, nan, nan]
    after taking away the largest, 1002                   [0.090, 0.245, 0.665]
    of (0, 1, 2), the same differences                    [0.090, 0.245, 0.665]
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from picture import BLUE, GREY, RUST, bare, drawing, start
from sklearn.datasets import load_digits
from torch.nn import functional as F

from finetune.evaluate.metrics import probabilities
from finetune.model.small import Logistic
from finetune.train.optimizer import make_loss

digits = load_digits()  # 1,797 handwritten digits of 8×8 pixels, real ones
pixels = torch.tensor(digits.data / 16, dtype=torch.float32)
labels = torch.tensor(digits.target)
TRAIN, TEST = slice(0, 1347), slice(1347, 1797)


def train(loss: str) -> torch.Tensor:
    """Logits [450, 10] of the test digits from one linear layer: only the loss makes the difference.

    `bce` asks ten questions with the answers yes and no, of the one-hot vector; `cross_entropy` one with ten answers.
    """
    torch.manual_seed(0)
    layer = Logistic(inputs=64, classes=10)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        make_loss(loss)(layer(pixels[TRAIN]), labels[TRAIN]).mean().backward()
        optimizer.step()
    return layer(pixels[TEST]).detach()


def naive_softmax(z: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.exp(z) / np.exp(z).sum()


def main() -> None:
    file = start(__doc__)
    print("the one-hot vector of 5  ", F.one_hot(torch.tensor(5), 10).tolist())
    rest, soft = train("bce"), train("cross_entropy")
    right = [float((z.argmax(1) == labels[TEST]).float().mean()) for z in (rest, soft)]
    yes = (torch.sigmoid(rest) > 0.5).sum(1)
    counts = f"nobody {int((yes == 0).sum())}, one {int((yes == 1).sum())}, several {int((yes > 1).sum())}"
    print(f"one-vs-rest     right on {100 * right[0]:.1f} % of 450 digits; said yes: {counts}")
    assert np.allclose(probabilities(soft.numpy()).sum(1), 1)
    print(f"softmax         right on {100 * right[1]:.1f} % of 450 digits; every row sums to 1")

    z = np.array([1000.0, 1001.0, 1002.0])
    print("softmax(1000, 1001, 1002) straight from the formula  ", shown(naive_softmax(z)))
    print("after taking away the largest, 1002                  ", shown(naive_softmax(z - z.max())))
    print("of (0, 1, 2), the same differences                   ", shown(probabilities(np.array([[0.0, 1.0, 2.0]]))[0]))
    if file:
        draw(file, rest, soft, [int((yes > 1).nonzero()[-1]), int((yes == 0).nonzero()[0])])


def shown(values: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:.3f}" for value in values) + "]"


def draw(file: Path, rest: torch.Tensor, soft: torch.Tensor, chosen: list[int]) -> None:
    with drawing(file, 8.6, 4.4) as figure:
        axes = figure.subplots(2, 3, width_ratios=[1, 2.2, 2.2])
        for (picture, left, right), which in zip(axes, chosen, strict=True):
            picture.imshow(-digits.images[1347 + which], cmap="gray")
            picture.set_xlabel(f"a {labels[1347 + which]}", fontsize=11)

            bare(picture)
            for plot, values in ((left, torch.sigmoid(rest[which])), (right, torch.softmax(soft[which], 0))):
                yes = BLUE if plot is right else RUST
                plot.bar(range(10), values.tolist(), color=[yes if value > 0.5 else GREY for value in values])
                plot.set(ylim=(0, 1.08), xticks=range(10), yticks=[0, 0.5, 1])
                plot.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":")
                plot.text(9.4, 0.98, f"sum {values.sum():.2f}", ha="right", va="top")
        axes[0, 1].set_title("ten sigmoids: one-vs-rest")
        axes[0, 2].set_title("one softmax")


if __name__ == "__main__":
    main()

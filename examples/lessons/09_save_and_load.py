"""Saving and loading, as in the notebook, and going on as if nothing had happened.

The notebook's network, 784-128-64-10, trains on digits and is stopped halfway. Four entries go into the file, and four
lines bring them back. Weights alone are not enough to go on as before: the optimizer has its momentum.

    python examples/lessons/09_save_and_load.py --draw docs/pictures/09_save_and_load.png

Expected output:

    stopped after epoch 20 at loss 2.008, gone on to 40, which never stopping reaches too
    everything loaded: the same weights, to the bit: True
    only the weights loaded: the same weights:       False
    from a checkpoint as `finetune run` writes them:  True
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from picture import BLUE, GREY, RUST, drawing, start
from sklearn.datasets import load_digits
from torch.nn import functional as F

from finetune.model.small import MLP
from finetune.model.weights import read_weights
from finetune.runs.checkpoints import Checkpoints

digits = load_digits()
pixels = torch.tensor(digits.images[:500, None] / 16, dtype=torch.float32)
images, labels = F.interpolate(pixels, size=(28, 28)), torch.tensor(digits.target[:500])
HALF, EPOCHS = 20, 40


def fresh() -> tuple[MLP, torch.optim.SGD]:
    """The notebook's network and its optimizer."""
    torch.manual_seed(0)
    model = MLP(inputs=28 * 28, hidden=[128, 64], classes=10, activation="relu", dropout=0.0, pieces=2)
    return model, torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.95)


def train(model: MLP, optimizer: torch.optim.SGD, first: int, last: int) -> list[float]:
    """Epochs `first` to `last` - 1, each one step on all images; the loss before each."""
    losses = []
    for _ in range(first, last):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def save(path: Path, model: MLP, optimizer: torch.optim.SGD, epoch: int, loss: float) -> None:
    """Listing 2, first half."""
    checkpoint = {
        "epoch": epoch,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "loss": loss,
    }
    torch.save(checkpoint, path)


def load(path: Path, model: MLP, optimizer: torch.optim.SGD) -> tuple[int, float]:
    """Listing 2, second half. torch.load runs no code out of the file: weights_only is its default since 2.6."""
    checkpoint = torch.load(path, weights_only=True)
    model.load_state_dict(checkpoint["model_state_dict"])
    optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    return checkpoint["epoch"], checkpoint["loss"]


def same(one: MLP, other: MLP) -> bool:
    """Whether all weights are equal to the last bit."""
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def main() -> None:
    file = start(__doc__)
    whole, optimizer = fresh()
    never = train(whole, optimizer, 0, EPOCHS)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model_checkpoint.pth"
        model, optimizer = fresh()
        save(path, model, optimizer, HALF, train(model, optimizer, 0, HALF)[-1])

        model, optimizer = fresh()
        epoch, loss = load(path, model, optimizer)
        train(model, optimizer, epoch, EPOCHS)
        print(f"stopped after epoch {epoch} at loss {loss:.3f}, gone on to {EPOCHS}, which never stopping reaches too")
        print("everything loaded: the same weights, to the bit:", same(model, whole))

        model, optimizer = fresh()
        model.load_state_dict(read_weights(path))  # the project's reader takes the notebook's file
        without = train(model, optimizer, epoch, EPOCHS)
        print("only the weights loaded: the same weights:      ", same(model, whole))

        model, optimizer = fresh()
        published = Checkpoints(Path(folder)).save({**torch.load(path, weights_only=True), "step": HALF})
        train(model, optimizer, load(published, model, optimizer)[0], EPOCHS)
        print("from a checkpoint as `finetune run` writes them: ", same(model, whole))
    if file:
        draw(file, never, without)


def draw(file: Path, never: list[float], without: list[float]) -> None:
    with drawing(file, 6.4, 3.4) as figure:
        axes = figure.add_subplot(xlabel="epoch", title="loss", ylim=(0, 2.45), xlim=(0, EPOCHS))
        axes.axvline(HALF, color=GREY, linestyle=":")
        axes.text(HALF - 0.4, 2.4, "stopped here", color=GREY, ha="right", va="top")
        axes.plot(range(HALF, EPOCHS), without, color=RUST, linewidth=2)
        axes.plot(never, color=BLUE, linewidth=2.4)
        axes.text(26.5, without[6] + 0.04, "only the weights loaded", color=RUST)
        axes.text(20.7, 0.6, "all loaded, or never stopped", color=BLUE)


if __name__ == "__main__":
    main()

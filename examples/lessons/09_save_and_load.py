"""Saving and loading, as in the notebook, and going on as if nothing had happened.

The notebook's network, 784-128-64-10, trains on digits and is stopped halfway. Four entries go into the file, and four
lines bring them back. Weights alone are not enough to go on: Adam's averages belong to where the training stands.

    python examples/lessons/09_save_and_load.py --draw docs/pictures/09_save_and_load.png

Expected output:

"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from picture import BLUE, GREY, INK, RUST, asked, drawing
from sklearn.datasets import load_digits
from torch.nn import functional as F

from finetune.data.load import order
from finetune.model.small import MLP
from finetune.model.weights import read_weights
from finetune.train.checkpoints import Checkpoints

digits = load_digits()
images = F.interpolate(torch.tensor(digits.images[:, None] / 8 - 1, dtype=torch.float32), size=(28, 28), mode="bilinear")
labels = torch.tensor(digits.target)
HALF, EPOCHS = 3, 6


def fresh() -> tuple[MLP, torch.optim.Adam]:
    """The notebook's network and its optimizer."""
    torch.manual_seed(0)
    model = MLP(inputs=28 * 28, hidden=[128, 64], classes=10, activation="relu", dropout=0.0, pieces=2)
    return model, torch.optim.Adam(model.parameters(), lr=2e-3)


def train(model: MLP, optimizer: torch.optim.Adam, first: int, last: int) -> list[float]:
    """Epochs `first` to `last` - 1; the loss of every step. The order of the images is a function of the epoch."""
    losses = []
    for epoch in range(first, last):
        for batch in torch.from_numpy(order(0, epoch, len(images))).split(64):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def save(path: Path, model: MLP, optimizer: torch.optim.Adam, epoch: int, loss: float) -> None:
    """Listing 2, first half."""
    torch.save({
        'epoch': epoch,
        'model_state_dict': model.state_dict(),
        'optimizer_state_dict': optimizer.state_dict(),
        'loss': loss,
    }, path)


def load(path: Path, model: MLP, optimizer: torch.optim.Adam) -> tuple[int, float]:
    """Listing 2, second half. torch.load runs no code out of the file: weights_only is its default since 2.6."""
    checkpoint = torch.load(path, weights_only=True)
    model.load_state_dict(checkpoint["model_state_dict"])
    optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    return checkpoint["epoch"], checkpoint["loss"]


def same(one: MLP, other: MLP) -> bool:
    """Whether all weights are equal to the last bit."""
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def main() -> None:
    file = asked(__doc__)
    whole, optimizer = fresh()
    losses = {"never stopped": train(whole, optimizer, 0, EPOCHS)}

    with TemporaryDirectory() as folder:
        path = Path(folder) / "model_checkpoint.pth"
        model, optimizer = fresh()
        loss = train(model, optimizer, 0, HALF)[-1]
        save(path, model, optimizer, HALF, loss)
        ours = {"epoch": HALF, "step": 0, "model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict(), "loss": loss}
        published = Checkpoints(Path(folder)).save(ours)

        model, optimizer = fresh()
        epoch, loss = load(path, model, optimizer)
        losses["stopped and gone on"] = train(model, optimizer, epoch, EPOCHS)
        print(f"stopped after {epoch} epochs at loss {loss:.3f}, gone on to {EPOCHS}")
        print("the same weights, to the bit, as never having stopped:", same(model, whole))

        model, optimizer = fresh()
        model.load_state_dict(read_weights(path))
        losses["weights only"] = train(model, optimizer, epoch, EPOCHS)
        print("and with the weights only, the optimizer begun anew:  ", same(model, whole))

        model, optimizer = fresh()
        load(published, model, optimizer)
    if file:
        draw(file, losses)


def draw(file: Path, losses: dict[str, list[float]]) -> None:
    with drawing(file, 6.4, 3.4) as figure:
        axes = figure.add_subplot(xlabel="step")
        for n,l in losses.items():
            axes.plot(range(len(losses["never stopped"]) - len(l), len(losses["never stopped"])), l, label=n)
        axes.legend()
        axes.set_yscale("log")


if __name__ == "__main__":
    main()

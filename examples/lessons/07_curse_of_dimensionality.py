"""The curse of dimensionality: how many samples the same accuracy takes as dimensions grow.

Points in a cube, and always the same question: is the first coordinate positive? The nearest neighbour answers it from
examples, which have to fill the cube; a neuron fits one weight a dimension, and here a plane is just what is needed.

    python examples/lessons/07_curse_of_dimensionality.py --draw docs/pictures/07_curse_of_dimensionality.png

Expected output:

    samples needed to be right 90 % of the time
    dimensions              1      2      3      4      5      6      7      8
    nearest neighbour       6     13     33     86    179    455    884   2079
    one neuron              1      5      8      9     12     16     17     20
    each dimension multiplies the neighbour's need by 2.3
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from picture import BLUE, GREY, RUST, drawing, start

DIMENSIONS, TARGET, QUESTIONS = range(1, 9), 0.90, 1000
Answer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def nearest_neighbour(points: torch.Tensor, yes: torch.Tensor, questions: torch.Tensor) -> torch.Tensor:
    """What the nearest of the points says; |q - p|² without the |q|² that all have alike."""
    distances = (points**2).sum(1) - 2 * questions @ points.T
    return yes[distances.argmin(1)]


def neuron(points: torch.Tensor, yes: torch.Tensor, questions: torch.Tensor) -> torch.Tensor:
    """One linear neuron, fitted to +1 and -1 by least squares."""
    weights = torch.linalg.pinv(points) @ torch.where(yes, 1.0, -1.0)
    return questions @ weights > 0


def accuracy(answer: Answer, dimensions: int, samples: int) -> float:
    """The mean over several small worlds, drawn anew each time."""
    worlds, right = max(3, min(100, 5000 // samples)), 0.0
    for world in range(worlds):
        draws = torch.Generator().manual_seed(1_000_000 * dimensions + 100 * samples + world)
        points = 2 * torch.rand(samples, dimensions, generator=draws) - 1
        questions = 2 * torch.rand(QUESTIONS, dimensions, generator=draws) - 1
        agree = answer(points, points[:, 0] > 0, questions) == (questions[:, 0] > 0)
        right += float(agree.float().mean())
    return right / worlds


def samples_needed(answer: Answer) -> list[int]:
    """For each number of dimensions the fewest samples, in steps of a tenth, with which the accuracy reaches TARGET."""
    found, samples = [], 1
    for dimensions in DIMENSIONS:  # more dimensions never take fewer samples, so go on from the last
        while accuracy(answer, dimensions, samples) < TARGET:
            samples += max(1, samples // 10)
        found.append(samples)
    return found


def main() -> None:
    file = start(__doc__)
    found = {"nearest neighbour": samples_needed(nearest_neighbour), "one neuron": samples_needed(neuron)}
    print("samples needed to be right 90 % of the time")
    for name, counts in {"dimensions": DIMENSIONS, **found}.items():
        print(f"{name:18}" + "".join(f"{count:7}" for count in counts))
    near = found["nearest neighbour"]
    print(f"each dimension multiplies the neighbour's need by {(near[-1] / near[0]) ** (1 / (len(near) - 1)):.1f}")
    if file:
        draw(file, found)


def draw(file: Path, found: dict[str, list[int]]) -> None:
    with drawing(file, 6.4, 3.6) as figure:
        axes = figure.add_subplot(yscale="log", xticks=DIMENSIONS, xlabel="dimensions", ylim=(1, 10_000))
        axes.set_title("samples needed for 90 % accuracy")
        axes.grid(axis="y", color=GREY, linewidth=0.4, alpha=0.5)
        for (name, counts), colour in zip(found.items(), (RUST, BLUE), strict=True):
            axes.plot(DIMENSIONS, counts, "o-", color=colour, linewidth=2)
            axes.text(5.8, 1.5 * counts[5], name, ha="right", color=colour, fontsize=11)


if __name__ == "__main__":
    main()

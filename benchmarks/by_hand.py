"""The loops that people write by hand, to be timed beside this tool (speed.py).

`tutorial` is the loop of PyTorch's transfer-learning tutorial, with two loader workers, in training mode with what is
frozen excluded from the optimizer; `features_once` runs the backbone over each image a single time and hands the rest
to scikit-learn; `in_memory` keeps MNIST in one tensor and slices it; `loader_predicts` is a data loader and a network.
Each gives its seconds, from the first batch asked for until trained and evaluated.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("FINETUNE_DATA", "../shared/data")).absolute()
CARD = DATA.parent / "weights" / "mobilenetv2_035.in1k.yaml"
MOBILENET = "mobilenetv2_035"
NEEDED = [DATA / "hymenoptera_data", DATA / "vehicles", DATA / "MNIST" / "raw", CARD]
Arm = Callable[[Path], float]
"""Something to be timed: it gets an empty folder and gives its seconds."""


def require_data() -> None:
    """End with a plain message where the real images or weights are missing."""
    if missing := [str(path) for path in NEEDED if not path.exists()]:
        raise SystemExit(
            f"not found: {', '.join(missing)}\n"
            "Set FINETUNE_DATA to a folder with hymenoptera_data/, vehicles/ and MNIST/raw/, beside which lies weights/"
        )


def transforms_of(*first: Any) -> Any:
    """`first`, then tensors in -1 to 1."""
    from torchvision import transforms

    return transforms.Compose([*first, transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])


def as_evaluated() -> Any:
    from torchvision import transforms

    return transforms_of(transforms.Resize(256), transforms.CenterCrop(224))


def split_images(data: str) -> tuple[Any, Any, int]:
    """Training images as the tutorial augments them, validation images, and the number of classes."""
    import torch
    from torchvision import datasets, transforms

    seen = transforms_of(transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip())
    if data == "hymenoptera_data":
        train, val = (
            datasets.ImageFolder(str(DATA / data / p), t) for p, t in (("train", seen), ("val", as_evaluated()))
        )
        return train, val, 2
    whole = [datasets.ImageFolder(str(DATA / data), transform) for transform in (seen, as_evaluated())]
    order = torch.randperm(len(whole[0])).tolist()
    held = len(order) // 5
    parts = zip(whole, (order[held:], order[:held]), strict=True)
    train, val = (torch.utils.data.Subset(images, places) for images, places in parts)
    return train, val, 7


def pretrained(classes: int) -> Any:
    """MobileNetV2-0.35 with the weights of the card, and a new head."""
    import timm
    from safetensors.torch import load_file

    model = timm.create_model("mobilenetv2_035", num_classes=0, pad_type="same", bn_eps=1e-3)
    model.load_state_dict(load_file(CARD.with_suffix(".safetensors")))
    model.reset_classifier(classes)
    return model


def tutorial(data: str, network: str, epochs: int, batch: int, learning: Sequence[str]) -> Arm:
    """The tutorial's loop; `learning` are prefixes of the parameters that learn."""

    def arm(folder: Path) -> float:
        import timm
        import torch

        train, val, classes = split_images(data)
        model = pretrained(classes) if network == MOBILENET else timm.create_model(network, num_classes=classes)
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.startswith(tuple(learning))
        loaders = [
            torch.utils.data.DataLoader(part, batch, shuffle=part is train, num_workers=2) for part in (train, val)
        ]
        parameters = [p for p in model.parameters() if p.requires_grad]
        loss_of, optimizer = torch.nn.CrossEntropyLoss(), torch.optim.SGD(parameters, lr=0.001, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
        clock = time.perf_counter()
        for _ in range(epochs):
            for learns, loader in zip((True, False), loaders, strict=True):
                model.train(learns)
                for images, labels in loader:
                    optimizer.zero_grad()
                    with torch.set_grad_enabled(learns):
                        loss = loss_of(model(images), labels)
                        if learns:
                            loss.backward()
                            optimizer.step()
            scheduler.step()
        return time.perf_counter() - clock

    return arm


def features_once(folder: Path) -> float:
    """The backbone over each image once, no augmentation; scikit-learn does the rest."""
    import torch
    from sklearn.linear_model import LogisticRegression
    from torchvision import datasets

    parts = [datasets.ImageFolder(str(DATA / "hymenoptera_data" / part), as_evaluated()) for part in ("train", "val")]
    model = pretrained(0).eval()
    loader = torch.utils.data.DataLoader(torch.utils.data.ConcatDataset(parts), 16, num_workers=2)
    clock = time.perf_counter()
    with torch.inference_mode():
        batches = [(model(images), labels) for images, labels in loader]
    x, y = (torch.cat(columns).numpy() for columns in zip(*batches, strict=True))
    known = len(parts[0])
    LogisticRegression(max_iter=1000).fit(x[:known], y[:known]).score(x[known:], y[known:])
    return time.perf_counter() - clock


def in_memory(folder: Path) -> float:
    """All of MNIST is one tensor; an epoch is one shuffle and slices of it."""
    import torch
    from torch import nn
    from torchvision.datasets import MNIST

    train, test = MNIST(str(DATA)), MNIST(str(DATA), train=False)
    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer, loss_of = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True), nn.CrossEntropyLoss()
    clock = time.perf_counter()
    x, y = train.data.flatten(1).float() / 255, train.targets
    for _ in range(5):
        order = torch.randperm(len(x))
        for images, labels in zip(x[order].split(64), y[order].split(64), strict=True):
            loss_of(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        (model(test.data.flatten(1).float() / 255).argmax(1) == test.targets).float().mean().item()
    return time.perf_counter() - clock


def loader_predicts(folder: Path) -> float:
    """A data loader with two workers, and the network in eval mode."""
    import torch
    from torchvision import datasets

    images, model = datasets.ImageFolder(str(DATA / "vehicles"), as_evaluated()), pretrained(7).eval()
    loader = torch.utils.data.DataLoader(images, 32, num_workers=2)
    clock = time.perf_counter()
    with torch.no_grad():
        for pixels, _ in loader:
            model(pixels).argmax(1)
    return time.perf_counter() - clock

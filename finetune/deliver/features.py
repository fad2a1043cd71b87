"""The outputs of a trained network's layers for one image file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune.data.load import prepare
from finetune.device import Compute
from finetune.errors import BadImage, DataError, UsageError
from finetune.evaluate.activations import Passage, pass_through
from finetune.files import write_atomic
from finetune.model.network import Network
from finetune.report.features import features_png


def features(network: Network, image: Path, compute: Compute) -> Passage:
    """The output of each layer group for one image.

    Raises:
        DataError: there is no such file, or it is no readable image.
    """
    try:
        pixels = prepare(image, network.preprocess)
    except BadImage as error:
        raise DataError([f"{image}: {problem}" for problem in error.problems], "name a readable image file") from error
    return pass_through(network, pixels, compute, name=str(image))


def check_out(out: Path, force: bool = False) -> None:
    """Refuse a place for the picture before anything is computed.

    Raises:
        UsageError: it is there already and may not be replaced, or is no name of a PNG file.
    """
    if out.suffix.lower() != ".png":
        raise UsageError(f"{out}: the picture is a PNG file", "give --out a name that ends in .png")
    if out.is_dir() or (out.exists() and not force):
        raise UsageError(f"{out}: already exists", "choose another name with --out, or replace the file with --force")


def write_features(out: Path, passage: Passage) -> None:
    """Publish the picture.

    Raises:
        ResourceError: it cannot be written.
    """
    write_atomic(out, features_png(passage))


def summary(passage: Passage) -> list[dict[str, Any]]:
    """Each group's name, true shape, least and largest value, mean, and share of zeros."""
    return [
        {
            "group": one.group,
            "shape": list(one.shape),
            "min": float(one.values.min()),
            "max": float(one.values.max()),
            "mean": float(one.values.mean()),
            "zeros": float((one.values == 0).mean()),
        }
        for one in passage.activations
    ]

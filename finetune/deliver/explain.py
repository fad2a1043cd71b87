"""Explanations of image files: the parts that speak for a class, drawn beside the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.data.find import find_images
from finetune.data.load import prepare
from finetune.device import Compute
from finetune.errors import BadImage, DataError, UsageError, did_you_mean
from finetune.evaluate.attribution import Explanation, Method, explain_pixels
from finetune.files import visible, write_atomic
from finetune.model.network import Network
from finetune.report.heat import heat_png


def explain(
    network: Network,
    images: Sequence[str | Path],
    compute: Compute,
    *,
    label: str | None = None,
    method: Method | None = None,
) -> Iterator[tuple[Path, Explanation]]:
    """An explanation for each image: where the evidence for a class lies; computed one by one.

    Args:
        network: with its classes.
        images: files, folders, globs.
        compute: where.
        label: the class; None for the predicted one of each image.
        method: gradcam or occlusion; None for Grad-CAM where the network has a layer for it.

    Raises:
        UsageError: no such class; no layer for Grad-CAM. DataError: a file that is no readable image.
    """
    if label is not None and label not in network.classes:
        near = did_you_mean(label, network.classes)
        known = ", ".join(visible(name) for name in network.classes)
        raise UsageError(f"--class: {visible(label)}: no such class{near}", f"the classes are {known}")
    files = find_images(images)
    problems = []
    for file in files:  # all that is wrong is said before anything is computed
        try:
            prepare(file, network.preprocess)
        except BadImage as error:
            problems += [f"{visible(str(file))}: {problem}" for problem in error.problems]
    if problems:
        raise DataError(problems, "name readable image files")
    return _each(network, files, compute, label, method)


def _each(
    network: Network, files: Sequence[Path], compute: Compute, label: str | None, method: Method | None
) -> Iterator[tuple[Path, Explanation]]:
    for file in files:
        pixels = prepare(file, network.preprocess)
        found = explain_pixels(network, pixels, compute, label=label, method=method, name=str(file))
        if found is None:
            raise UsageError(
                f"--method: {network.architecture} has no layer that tells places apart, so there is no Grad-CAM",
                "use --method occlusion, or leave it out",
            )
        yield file, found


def pictures_for(out: Path, images: Sequence[Path], force: bool = False) -> list[Path]:
    """Output paths: `OUT/NAME.png` for each image, repeated names numbered; or OUT itself if it is a PNG.

    Raises:
        UsageError: several images for one file, or a picture that is there already and may not be replaced.
    """
    if out.suffix.lower() == ".png":
        if len(images) > 1:
            raise UsageError(f"{out}: one file for {len(images)} images", "give --out a folder")
        places = [out]
    else:
        taken: dict[str, int] = {}
        places = []
        for image in images:
            taken[image.stem] = count = taken.get(image.stem, 0) + 1
            places.append(out / (f"{image.stem}.png" if count == 1 else f"{image.stem}-{count}.png"))
    there = [place for place in places if place.exists()]
    if there and not force:
        named = [f"{place}: already exists" for place in there]
        raise UsageError(named, "choose another --out, or replace what is there with --force")
    return places


def write_picture(place: Path, explanation: Explanation) -> None:
    """Publish the picture of an explanation.

    Raises:
        ResourceError: it cannot be written.
    """
    write_atomic(place, heat_png(explanation))

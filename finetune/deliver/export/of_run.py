"""Exporting what a run, a bundle or a checkpoint holds, tried on the run's own test images where they are at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from finetune.data.dataset import ImageSet
from finetune.deliver.evaluate import own_images
from finetune.deliver.export.publish import FORMATS, Export, export_network, require_formats
from finetune.deliver.export.samples import Samples, drawn, from_files
from finetune.deliver.export.to_int8 import Int8
from finetune.deliver.open_network import open_network, run_of
from finetune.errors import DataError, FinetuneError, Stopped, UsageError, did_you_mean
from finetune.model.hub import on_hub, shown
from finetune.model.network import Network
from finetune.runs.folder import RunFolder
from finetune.runs.names import RunNames


def export_run(
    run: Path,
    formats: Sequence[str],
    out: Path | None = None,
    *,
    int8: bool = False,
    accept_loss: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> list[Export]:
    """Export the network of a run in each format.

    Args:
        run: a run folder or a model bundle.
        formats: of `FORMATS`.
        out: the folder of the export, or of several a folder above one for each; by default `RUN/export/FORMAT`.
        int8: add an int8 network to onnx, calibrated on the run's training images and evaluated on its test images.
        accept_loss: publish it even if it is much less accurate.
        say: told what is being done.

    Raises:
        UsageError: no such run or format, or a folder with something else in it; int8 without onnx or without a run.
        DataError: images for int8 that are gone or changed.
        ArtefactError: an export whose answers differ from those of `predict`; nothing is published then.
        ResourceError: packages that are not installed, no space.
    """
    _require_known(formats, "--to ")
    _require_options(formats, int8, accept_loss)
    require_formats(formats)
    if on_hub(run) and out is None:
        raise UsageError(f"{shown(run)}: it lies in the cache folder, which keeps no exports", "say where: --out DIR")
    network, run = open_network(run), run_of(run)
    for note in network.notes:
        say(f"note: {note}")
    require_formats(formats, network)
    quantise = _int8_of(run, network, accept_loss) if int8 else None
    place = _places(run, len(set(formats)), out)
    say("computing the answers that the exports must give")
    return export_network(network, formats, place, samples_of(run, network, say), int8=quantise, say=say)


def export_to(network: Network, folder: Path, to: str | Sequence[str], images: ImageSet | None = None) -> Path:
    """Export a network from a script.

    Args:
        network: whole, with its classes.
        folder: of the export; of several formats, one folder each in it.
        to: onnx, torch or timm, or several of them.
        images: on which the exports must answer as `predict` does, such as `data.test`; None for drawn pictures.

    Raises:
        UsageError: an unknown format, or a folder with something else in it.
        ArtefactError: an export that answers differently, which is not kept.
        ResourceError: packages that are not installed.
    """
    formats = [to] if isinstance(to, str) else list(to)
    _require_known(formats, "to=")
    samples = drawn(network)
    if images is not None:  # labels by name, in this network's order
        own = ImageSet(images.root, images.table, network.classes, images.pixels)
        samples = from_files(network, own, "given images")
    export_network(network, formats, _places(folder, len(set(formats)), folder), samples)
    return folder


def export_at_the_end(folder: RunFolder, formats: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """Export the network of a run that has just been published; the run stays good whatever comes of it.

    Returns:
        What could not be exported, one line each; they are among the run's warnings, too.
    """
    if not formats:
        return []
    try:
        for done in export_run(folder.path, formats, say=say):
            say("\n".join([f"export: {done.folder}", *(f"  {parity.line()}" for parity in done.parities)]))
        return []
    except Stopped:
        raise
    except FinetuneError as error:
        remedy = f"the network is whole; to try again: finetune export {folder.path} --to {' --to '.join(formats)}"
        lines = [*(f"export: {problem}" for problem in error.problems), remedy]
    folder.warn(*lines)
    return lines


def _require_known(formats: Sequence[str], said: str) -> None:
    problems = [f"{said}{name}: no such format{did_you_mean(name, FORMATS)}" for name in formats if name not in FORMATS]
    if problems:
        raise UsageError(problems, f"the formats are {', '.join(FORMATS)}")


def _require_options(formats: Sequence[str], int8: bool, accept_loss: bool) -> None:
    if int8 and "onnx" not in formats:
        raise UsageError(f"--int8: is made of the onnx export, not of {', '.join(formats)}", "add --to onnx")
    if accept_loss and not int8:
        raise UsageError("--accept-loss: only an int8 network loses accuracy", "add --int8, or leave it out")


def _int8_of(run: Path, network: Network, accept_loss: bool) -> Int8:
    """The run's training images, which calibrate, and its test images, which are compared.

    Raises:
        UsageError: not a run folder. DataError: images that are gone, or none in the split.
    """
    try:
        training, _ = own_images(run, "train", network)
        test_images, split = own_images(run, None, network)
    except (UsageError, DataError) as error:
        remedy = "name a run folder whose images are where its recipe says, or export without --int8"
        raise type(error)(f"--int8 needs the run's images: {error.problems[0]}", remedy) from error
    return Int8(training, test_images, split, accept_loss)


def samples_of(run: Path, network: Network, say: Callable[[str], None] = lambda text: None) -> Samples:
    """Test images of the run, else drawn pictures; what could not be used is said."""
    try:
        images, split = own_images(run, None, network)
        found = from_files(network, images, split)
    except (UsageError, DataError) as error:
        say(f"no test images: {error.problems[0]}")
        return drawn(network)
    for line in found.skipped:
        say(f"left out: {line}")
    return found if len(found) else drawn(network)


def _places(run: Path, count: int, out: Path | None) -> Callable[[str], Path]:
    if out is None:
        return lambda name: RunNames(run).export / name
    base = out.expanduser()
    return lambda name: base if count == 1 else base / name

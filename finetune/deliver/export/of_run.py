"""Exporting what a run, a bundle or a checkpoint holds, tried on the run's own test images where they are at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from finetune.deliver.evaluate import own_images
from finetune.deliver.export.publish import FORMATS, Export, export_network, require_formats
from finetune.deliver.export.samples import Samples, drawn, from_files
from finetune.errors import DataError, UsageError, did_you_mean
from finetune.model.bundle import load_bundle
from finetune.model.network import Network
from finetune.runs.names import RunNames


def export_run(
    run: Path,
    formats: Sequence[str],
    out: Path | None = None,
    *,
    say: Callable[[str], None] = lambda text: None,
) -> list[Export]:
    """Export the network of a run in each format.

    Args:
        run: a run folder or a model bundle.
        formats: of `FORMATS`.
        out: the folder of the export, or of several a folder above one for each; by default `RUN/export/FORMAT`.
        say: told what is being done.

    Raises:
        UsageError: no such run or format, or a folder with something else in it.
        ArtefactError: an export whose answers differ from those of `predict`; nothing is published then.
        ResourceError: packages that are not installed, no space.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        problems = [f"--to {name}: no such format{did_you_mean(name, FORMATS)}" for name in unknown]
        raise UsageError(problems, f"the formats are {', '.join(FORMATS)}")
    require_formats(formats)
    network = load_bundle(run)
    require_formats(formats, network)
    place = _places(run, len(set(formats)), out)
    say("computing the answers that the exports must give")
    return export_network(network, formats, place, samples_of(run, network, say), say=say)


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

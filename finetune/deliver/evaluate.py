"""Evaluating a trained network again: on its run's own images, or on another folder."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from finetune.data.batches import load_images
from finetune.data.dataset import ImageSet, one_against_rest, relabelled
from finetune.data.manifest import read_manifest
from finetune.data.scan import scan
from finetune.data.source import reopen
from finetune.data.wanted import Wanted
from finetune.deliver.open_network import open_network, run_of
from finetune.deliver.predict import rules_of
from finetune.device import choose
from finetune.errors import ArtefactError, DataError, UsageError, option
from finetune.evaluate.evaluation import OUT_OF_FOLD, Evaluation, evaluate_images
from finetune.evaluate.metrics import compute_metrics
from finetune.model.network import Network
from finetune.report.cautions import cautions
from finetune.runs.folder import RunFolder
from finetune.runs.names import RunNames
from finetune.runs.reporter import Reporter


def evaluate(
    run: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    split: str | None = None,
    device: str = "auto",
    precision: str = "fp32",
    reporter: Reporter | None = None,
) -> tuple[Evaluation, str]:
    """Evaluate the network of a run or bundle; classes are matched by name.

    Args:
        run: a run folder or a model bundle.
        folder: class folders with other images; None for the run's own.
        split: which of the run's own images: by default test, or val where there is no test.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: fp32 or bf16.
        reporter: who is told.

    Returns:
        The evaluation, and the name of what was evaluated.

    Raises:
        UsageError: no such run; a bundle without a folder.
        DataError: images that are gone or changed, or of a class that the network does not know.
    """
    reporter = reporter or Reporter()
    network, run = open_network(Path(run)), run_of(Path(run))
    reporter.notes(network.notes)
    if folder is None and split is None and (known := _out_of_fold(Path(run), network)):
        return known, OUT_OF_FOLD
    if folder is None:
        images, evaluated = own_images(run, split, network)
    else:
        images, evaluated = _folder_images(run, Path(folder), network, reporter)
    tick = reporter.reading("evaluating", "evaluating")
    evaluation = evaluate_images(
        network,
        load_images(images, network.preprocess),
        choose(device, precision, convolutional=network.convolutional, light=network.light),
        loss=network.loss,
        tick=lambda done: tick(done, len(images)),
    )
    told = _cautions(RunNames(run), images, None if folder is not None else evaluated)
    return replace(evaluation, cautions=told), evaluated


def _out_of_fold(run: Path, network: Network) -> Evaluation | None:
    """The out-of-fold answers of the run, if it was evaluated by those: they cannot be computed again."""
    names = RunNames(run)
    if not names.data_csv.is_file() or (RunFolder.open(run).record.metrics or {}).get("split") != OUT_OF_FOLD:
        return None
    root = Path(RunFolder.open(run).record.recipe["data"]["folder"])
    manifest = read_manifest(names.data_csv, root, network.classes)
    table = pd.concat([manifest[manifest["split"] == part] for part in ("train", "val")])
    images = ImageSet(root, table, network.classes)
    written = pd.read_csv(names.report.predictions_csv, dtype=str, keep_default_na=False)
    chances = written.iloc[:, -len(network.classes) :].to_numpy(dtype=np.float64)  # the order is that of the classes
    if len(chances) != len(images):
        raise ArtefactError(
            f"{names.report.predictions_csv}: {len(chances):,} rows for {len(images):,} images",
            "it was changed: run again, or evaluate other images: finetune evaluate RUN FOLDER",
        )
    metrics = compute_metrics(images.labels, chances, network.classes)
    paths = [str(path) for path in table["path"]]
    return Evaluation(paths, images.labels, chances, metrics, cautions(manifest, OUT_OF_FOLD))


def _cautions(run: RunNames, images: ImageSet, split: str | None) -> list[str]:
    """What qualifies the figures of a split of the run, or of other images: it may have learned from those, too."""
    if not run.data_csv.is_file():
        return []
    manifest = read_manifest(run.data_csv, images.root, images.classes)
    if split is not None:
        return cautions(manifest, split)
    # a solved head has learned from the validation images, too, and every other epoch was chosen by them
    return cautions(images.table, "", manifest[manifest["split"] != "test"])


def _folder_images(run: Path, folder: Path, network: Network, reporter: Reporter) -> tuple[ImageSet, str]:
    prepared, rules = network.preprocess, rules_of(run)
    wanted = Wanted(
        links=rules.links,
        extensions=rules.extensions,
        range=prepared.decoding.range or "auto",
        max_megapixels=prepared.max_megapixels,
    )
    scanned = scan(folder, wanted, reporter.reading("reading images", "reading the images"))
    reporter.notes(scanned.notes)
    table, positive = scanned.table, network.classes[-1]
    if positive in scanned.classes and network.classes == one_against_rest(positive, scanned.classes):
        table = relabelled(table, *network.classes)
    images = ImageSet(scanned.root, table, network.classes)
    _ = images.labels  # a class that the network does not know is refused before anything is computed
    return images, str(folder)


def own_images(run: Path, split: str | None, network: Network) -> tuple[ImageSet, str]:
    """The images of a run's split (by default test, or val where there is no test), and the split's name.

    Raises:
        UsageError: not a run folder, so without images.
        DataError: images that are gone or changed, or none in the split.
    """
    manifest = RunNames(run).data_csv
    if not manifest.is_file():
        raise UsageError(f"{run}: has no images of its own", f"name a folder: finetune evaluate {run} FOLDER")
    data = RunFolder.open(run).record.recipe["data"]
    if not Path(data["folder"]).is_dir():
        raise DataError(f"{data['folder']}: no longer there", f"say where they are: finetune evaluate {run} FOLDER")
    table = read_manifest(manifest, Path(data["folder"]), network.classes)
    split_name = split or ("test" if (table["split"] == "test").any() else "val")
    rows = table[table["split"] == split_name]
    if rows.empty:
        raise DataError(
            f"{manifest}: no images in its {split_name} split", f"choose another with {option('split', 'NAME')}"
        )
    return reopen(data.get("source", "folder"), Path(data["folder"]), rows, network.classes), split_name

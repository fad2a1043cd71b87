"""The deep audit of a data set: faults of images and labels that only the pixels show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from finetune.data.audit import Finding
from finetune.data.batches import load_images
from finetune.data.colours import other_colours
from finetune.data.dataset import ImageSet
from finetune.data.decode import Decoding
from finetune.data.looks import Looks, look, off_images, outliers
from finetune.data.names import PATTERN, name_groups
from finetune.data.near_duplicates import near_duplicates
from finetune.data.scan import Scan
from finetune.deliver.audit_cache import AuditCache
from finetune.device import Compute
from finetune.errors import setting
from finetune.evaluate.encode import make_encoder
from finetune.evaluate.label_errors import label_suspects
from finetune.evaluate.told_apart import confusable_classes
from finetune.files import visible, write_csv, write_text
from finetune.model.network import Network
from finetune.report.findings import findings_html
from finetune.train.head_solver import unseen_answers

BATCH = 32

MANY = 200
"""Images from which on making the network faster first pays."""

GIVEN_AWAY = 0.9
"""Share of a class's images, and of the answers that name it, that the border alone gets right."""

FEW = 10
"""Images of a class below which nothing is said of its border."""


def deep_audit(
    scan: Scan,
    network: Network,
    compute: Compute,
    decoding: Decoding,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> list[Finding]:
    """Look at every image: near-duplicates, groups, labels, classes alike, outliers, off images, telling borders.

    Args:
        scan: of the folder, found usable, with the split of each image.
        network: whose features tell images apart.
        compute: where it runs.
        decoding: of the images.
        tick: called as `tick(done, total)` while images are read; may raise to stop.
    """
    table = scan.table.reset_index(drop=True)
    features, looks = look_at_all(scan.root, table, scan.classes, network, compute, decoding, tick)
    labels = np.array([scan.classes.index(name) for name in table["class"]])
    rows = Rows(scan.root, table)
    answers = unseen_answers(features, labels, rows.hashes) if _comparable(labels) else None
    return [
        *_near(rows, looks, features),
        *_groups(rows),
        *_suspects(rows, features, labels, answers, scan.classes),
        *_confusions(rows, labels, answers, scan.classes),
        *_outliers(rows, features),
        *_off(rows, looks),
        *_giveaways(rows, looks, labels, scan.classes),
    ]


class Rows:
    """The images of a table by their position.

    Args:
        root: the data folder.
        table: as `Scan.table`, with its split.
    """

    def __init__(self, root: Path, table: pd.DataFrame) -> None:
        self.root = root
        self.table = table
        self.paths: list[str] = table["path"].tolist()
        self.hashes: list[str] = table["sha256"].tolist()
        self.sizes = list(zip(table["width"].tolist(), table["height"].tolist(), strict=True))

    def absolute(self, *positions: int) -> tuple[str, ...]:
        """Where images lie."""
        return tuple(str(self.root / self.paths[position]) for position in positions)

    def name(self, position: int) -> str:
        """An image, for people."""
        return visible(self.paths[position])


def look_at_all(
    root: Path,
    table: pd.DataFrame,
    classes: list[str],
    network: Network,
    compute: Compute,
    decoding: Decoding,
    tick: Callable[[int, int], None],
) -> tuple[np.ndarray, Looks]:
    """Features, float32 [N, features], and looks of all images, each read once, whole and squeezed to a square."""
    # whole and squeezed: a crop would hide the border, which is what frames and watermarks are found by
    preprocess = replace(network.preprocess.read_as(decoding), crop=1.0, crop_mode="squash")
    hashes: list[str] = table["sha256"].tolist()
    cache = AuditCache(network, preprocess)
    missing = [position for position, sha256 in enumerate(hashes) if cache.get(sha256) is None]
    if missing:
        encoder = make_encoder(network, compute, fast=len(missing) > MANY)
        images = load_images(ImageSet(root, table, classes), preprocess)
        batches = [np.array(missing[start : start + BATCH]) for start in range(0, len(missing), BATCH)]
        try:
            with torch.inference_mode():
                for number, (indices, pixels) in enumerate(images.batches(batches), 1):
                    vectors = encoder.parts(encoder.forward(pixels).cpu().numpy())[0]
                    parts = zip(vectors, *(part.numpy() for part in look(pixels)), strict=True)
                    for position, row in zip(indices.tolist(), parts, strict=True):
                        cache.add(hashes[position], row)
                    tick(min(number * BATCH, len(missing)), len(missing))
        finally:  # a look that is stopped goes on from there next time
            cache.keep()
    rows = [cache.get(sha256) or () for sha256 in hashes]
    features, *looks = (np.stack(parts) for parts in zip(*rows, strict=True))
    return features, Looks(*looks)


def _near(rows: Rows, looks: Looks, features: np.ndarray) -> Iterator[Finding]:
    for pair in near_duplicates(looks.grey, features, rows.sizes, rows.hashes):
        paths = rows.absolute(pair.first, pair.second)
        if other_colours(Path(paths[0]), Path(paths[1]), mirrored=pair.kind == "mirrored"):
            continue  # the structure agrees: two shirts of one cut, two chequered boards
        first, second = rows.table.iloc[pair.first], rows.table.iloc[pair.second]
        across = [what for what in ("split", "class") if first[what] != second[what]]
        where = {"split": f"in {first['split']} and {second['split']}", "class": "in two classes"}
        message = f"the same picture twice ({pair.kind}{''.join(', ' + where[what] for what in across)}): "
        message += f"{rows.name(pair.first)}, {rows.name(pair.second)}"
        yield Finding("near_duplicate", "warning" if across else "note", message, paths, "keep one")


def _groups(rows: Rows) -> Iterator[Finding]:
    for name, members in name_groups(rows.paths).items():
        divided = rows.table["split"].iloc[members].nunique() > 1
        group = setting("data.group", PATTERN)
        message = (
            f"{len(members)} images whose names belong together ({visible(name)}…)"
            f"{', in several splits' if divided else ''}; keep groups in one split with {group}"
        )
        yield Finding(
            "group", "warning" if divided else "note", message, rows.absolute(*members), f"group {visible(name)}"
        )


def _suspects(
    rows: Rows, features: np.ndarray, labels: np.ndarray, answers: np.ndarray | None, classes: list[str]
) -> Iterator[Finding]:
    for suspect in label_suspects(features, labels, answers) if answers is not None else ():
        given, likely = visible(classes[suspect.given]), visible(classes[suspect.likely])
        message = f"{rows.name(suspect.index)}: labelled {given}, looks like {likely} ({suspect.confidence:.2f})"
        yield Finding("label_suspect", "warning", message, rows.absolute(suspect.index), f"label as {likely}")


def _confusions(rows: Rows, labels: np.ndarray, answers: np.ndarray | None, classes: list[str]) -> Iterator[Finding]:
    """Pairs of classes that are hardly told apart, each with the images that are surest taken for the other class."""
    for pair in confusable_classes(labels, answers) if answers is not None else ():
        names = " and ".join(visible(classes[label]) for label in (pair.first, pair.second))
        message = (
            f"{names}: {'can hardly' if pair.above_chance else 'cannot'} be told apart: of two images, one of each, "
            f"{pair.auc:.0%} are told apart (50 % by chance); one class, mixed-up labels, or too small to see?"
        )
        yield Finding("confusion", "warning", message, rows.absolute(*pair.mistaken), "look, or merge the classes")


def _comparable(labels: np.ndarray) -> bool:
    """Whether there are two classes at least, and in each an image to learn from for each that is answered."""
    return len(np.unique(labels)) > 1 and int(np.bincount(labels).min()) > 1


def _outliers(rows: Rows, features: np.ndarray) -> Iterator[Finding]:
    for position, beyond in outliers(features):
        message = f"{rows.name(position)}: like no other image ({beyond:.0f} usual spreads away)"
        yield Finding("outlier", "note", message, rows.absolute(position))


def _off(rows: Rows, looks: Looks) -> Iterator[Finding]:
    for what, positions in off_images(looks, rows.sizes).items():
        named = ", ".join(rows.name(position) for position in positions[:5])
        more = f" and {len(positions) - 5} more" if len(positions) > 5 else ""
        message = f"{len(positions)} image{'s' if len(positions) > 1 else ''} {what}: {named}{more}"
        yield Finding("off_image", "note", message, rows.absolute(*positions))


def _giveaways(rows: Rows, looks: Looks, labels: np.ndarray, classes: list[str]) -> Iterator[Finding]:
    """Classes that the pixels along the border tell already: a network may learn the frame and not the thing."""
    if not _comparable(labels):
        return
    answers = unseen_answers(looks.border, labels, rows.hashes).argmax(axis=1)
    for label, name in enumerate(classes):
        of_class, answered = labels == label, answers == label
        right = (of_class & answered).sum()
        if of_class.sum() < FEW or not answered.any() or of_class.mean() > 0.75:
            continue
        recall, precision = right / of_class.sum(), right / answered.sum()
        if min(recall, precision) >= GIVEN_AWAY:
            message = (
                f"class {visible(name)}: its border alone (colour, frame, watermark) finds {recall:.0%} of its images, "
                f"{precision:.0%} of those named are right; a network may learn the border instead of the thing"
            )
            yield Finding(
                "giveaway", "warning", message, rows.absolute(*np.flatnonzero(of_class & answered)[:20].tolist())
            )


def write_proposal(folder: Path, findings: list[Finding], title: str) -> Path:
    """Publish `proposal.csv`, a row for each image of each finding, and `check.html` with the pictures; returns that.

    Raises:
        ResourceError: they cannot be written.
    """
    columns = ["path", "kind", "severity", "proposal", "message"]
    rows = [
        (path, finding.kind, finding.severity, finding.proposal or "look", finding.message)
        for finding in findings
        for path in finding.paths
    ]
    write_csv(folder / "proposal.csv", columns, rows)
    page = folder / "check.html"
    write_text(page, findings_html(findings, title))
    return page

"""The deep audit finds what was planted: changed copies, wrong labels, groups, strips, borders; and little else."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from finetune.data.audit import audit_folder
from finetune.data.decode import PLAIN
from finetune.data.names import PATTERN, name_groups
from finetune.data.near_duplicates import SIDE, near_duplicates
from finetune.data.wanted import ALL
from finetune.deliver.audit import deep_audit
from finetune.device import choose
from finetune.errors import Stopped
from finetune.evaluate.label_errors import label_suspects
from finetune.model.backbones import build
from finetune.train.head_solver import unseen_answers
from tests import makers


def scene(seed: int, side: int = 96) -> Image.Image:
    """A picture with structure at every scale, another one for each seed."""
    rng = np.random.default_rng(seed)
    layers = [
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        for size in (3, 7, 15)
    ]
    mixed = np.mean([np.asarray(layer, dtype=np.float64) for layer in layers], axis=0)
    return Image.fromarray(mixed.astype(np.uint8))


CHANGES = {
    "re-encoded": lambda image: image.filter(ImageFilter.GaussianBlur(0.6)),
    "resized": lambda image: image.resize((60, 60)),
    "cropped": lambda image: image.crop((4, 1, 95, 92)),
    "brightness": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "mirrored": ImageOps.mirror,
}


def grey_of(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)


def test_changed_copies_are_found_with_their_kind_and_nothing_else() -> None:
    originals = [scene(seed) for seed in range(60)]
    copies = [(kind, CHANGES[kind](originals[place])) for place, kind in enumerate(CHANGES)]
    images = [*originals, *(copy for _, copy in copies)]
    grey = np.stack([grey_of(image) for image in images])
    features = np.random.default_rng(0).normal(size=(len(images), 16)).astype(np.float32)  # that say nothing
    sizes = [image.size for image in images]
    found = near_duplicates(grey, features, sizes, [str(place) for place in range(len(images))])
    assert {(pair.first, pair.second) for pair in found} == {(place, 60 + place) for place in range(len(copies))}
    assert {pair.kind for pair in found} == set(CHANGES)


def test_flipped_labels_come_first() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 60)
    features = rng.normal(size=(240, 32)) + 4 * np.eye(4, 32)[labels]
    units = range(240)
    assert len(label_suspects(features, labels, unseen_answers(features, labels, units))) <= 2
    wrong = rng.choice(240, 12, replace=False)
    given = labels.copy()
    given[wrong] = (given[wrong] + rng.integers(1, 4, 12)) % 4
    suspects = label_suspects(features, given, unseen_answers(features, given, units))
    assert len({suspect.index for suspect in suspects[:12]} & set(wrong.tolist())) >= 10
    assert all(suspect.likely == labels[suspect.index] for suspect in suspects if suspect.index in wrong)


@pytest.mark.parametrize(
    "name",
    ["seq{group:02}_frame_{shot:04}", "patient{group}-{shot}", "IMG_{group:03}_{letter}", "clip{group}.{shot:03}"],
)
def test_names_that_count_within_groups_are_groups(name: str) -> None:
    paths = [
        f"{'ab'[group % 2]}/{name.format(group=group, shot=shot, letter='abcdefgh'[shot])}.jpg"
        for group in range(20)
        for shot in range(8)
    ]
    groups = name_groups(paths)
    assert sorted(map(len, groups.values())) == [8] * 20
    assert "(" in PATTERN


@pytest.mark.parametrize(
    "name", ["image_{n:04}", "IMG_{n:04}", "{n:08}", "photo{n}", "{n}_f52e8ee07{n:x}_n", "cat.{n}"]
)
def test_names_that_only_count_are_none(name: str) -> None:
    assert name_groups([f"cat/{name.format(n=n)}.jpg" for n in range(200)]) == {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 24 scenes, one of them framed; a strip, a copy across classes."""
    root = tmp_path_factory.mktemp("audit") / "d"
    for number in range(24):
        for name in ("plain", "framed"):
            image = scene(1000 * (name == "framed") + number)
            if name == "framed":
                image = ImageOps.expand(image.resize((80, 80)), 8, fill=(200, 30, 30))
            makers.put(root / name / f"{number:03}x{number}.png", makers.encoded(image, "PNG"))
    makers.put(root / "plain/strip.png", makers.encoded(scene(7777).resize((300, 40)), "PNG"))
    makers.put(root / "framed/copy.jpg", makers.encoded(ImageOps.mirror(scene(3)), "JPEG", quality=70))
    return root


def test_check_deep_says_all_of_it_and_proposes(folder: Path, cli: Any, tmp_path: Path) -> None:
    before = makers.tree_hash(folder)
    options = ("--deep", "--json", "--fix", tmp_path / "fix")
    done = cli("check", folder, *options, "-o", "model.backbone=models/small-resnet")
    assert done.rc == 0, done.err
    findings = json.loads(done.out)["findings"]
    pairs = [finding for finding in findings if finding["kind"] == "near_duplicate"]
    assert [sorted(finding["paths"]) for finding in pairs] == [
        [str(folder / "framed/copy.jpg"), str(folder / "plain/003x3.png")]
    ]
    assert pairs[0]["severity"] == "warning"
    assert [f["paths"] for f in findings if f["kind"] == "off_image"] == [[str(folder / "plain/strip.png")]]
    assert any("framed" in f["message"] for f in findings if f["kind"] == "giveaway")
    with open(tmp_path / "fix/proposal.csv", newline="") as file:
        assert {row["kind"] for row in csv.DictReader(file)} >= {"near_duplicate", "off_image", "giveaway"}
    assert "The same picture twice" in (tmp_path / "fix/check.html").read_text()
    assert {finding["proposal"] for finding in pairs} == {"keep one"}
    assert makers.tree_hash(folder) == before
    assert cli("check", folder, "--fix", folder / "fix", "--deep").rc == 2


def test_strict_makes_findings_an_error(folder: Path, cli: Any) -> None:
    done = cli("check", folder, "--deep", "--strict", "-o", "model.backbone=models/small-resnet")
    assert done.rc == 3
    assert "the same picture twice (mirrored" in done.err


def test_a_look_that_is_stopped_goes_on_from_there(folder: Path) -> None:
    scanned, _ = audit_folder(folder, ALL)
    network, compute = build("models/small-resnet", scanned.classes), choose("cpu", "fp32")
    looked: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        looked.append((done, total))
        if len(looked) == 1:
            raise Stopped(2, "stopped")

    with pytest.raises(Stopped):
        deep_audit(scanned, network, compute, PLAIN, stop)
    deep_audit(scanned, network, compute, PLAIN, stop)
    assert looked == [(32, 50), (18, 18)]

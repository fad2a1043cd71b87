"""What `finetune check --deep` finds of planted truth, and of what is really there.

    FINETUNE_DATA=/path/to/data python benchmarks/audit.py [SET...]

In a copy of each set 5 % of the labels are flipped (SET `vehicles` by default), and in another copy 2 % of the images
are planted again, re-encoded, resized, cropped, brighter or darker, or mirrored. The sets as they are come last.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from PIL import Image, ImageEnhance, ImageOps

from finetune.data.audit import Finding, audit_folder
from finetune.data.decode import Decoding
from finetune.data.wanted import ALL
from finetune.deliver.audit import deep_audit
from finetune.device import choose
from finetune.model.backbones import build

FLIPPED, PLANTED = 0.05, 0.02


def audited(folder: Path) -> tuple[list[Finding], float]:
    scanned, _ = audit_folder(folder, ALL)
    network = build("auto", scanned.classes)
    compute = choose("auto", "fp32", convolutional=network.convolutional, light=network.light)
    started = time.perf_counter()
    return deep_audit(scanned, network, compute, Decoding(scanned.range)), time.perf_counter() - started


def images_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))


def flip(folder: Path, rng: random.Random) -> set[str]:
    """Move some images of each split into another class; returns where they are now."""
    images = images_of(folder)
    moved = set()
    for path in rng.sample(images, round(FLIPPED * len(images))):
        others = [place for place in path.parent.parent.iterdir() if place.is_dir() and place != path.parent]
        moved.add(str(shutil.move(path, rng.choice(sorted(others)) / f"moved-{path.parent.name}-{path.name}")))
    return moved


def plant(folder: Path, rng: random.Random) -> dict[frozenset[str], str]:
    """Put changed copies of some images beside them; returns the pairs with what was done."""
    images = images_of(folder)
    kinds = ("re-encoded", "resized", "cropped", "brighter", "darker", "mirrored")
    planted = {}
    for number, path in enumerate(rng.sample(images, round(PLANTED * len(images)))):
        kind, copy = kinds[number % len(kinds)], path.with_name(f"z{rng.randrange(10**9)}.jpg")
        changed(Image.open(path).convert("RGB"), kind, rng).save(copy, quality=rng.randint(60, 90))
        planted[frozenset((str(path), str(copy)))] = kind
    return planted


def changed(image: Image.Image, kind: str, rng: random.Random) -> Image.Image:
    width, height = image.size
    if kind == "resized":
        scale = rng.uniform(0.5, 0.8)
        return image.resize((round(width * scale), round(height * scale)))
    if kind == "cropped":
        left, upper = (round(rng.uniform(0, 0.05) * side) for side in image.size)
        return image.crop((left, upper, left + round(0.95 * width), upper + round(0.95 * height)))
    if kind in ("brighter", "darker"):
        return ImageEnhance.Brightness(image).enhance(1.1 if kind == "brighter" else 0.9)
    return ImageOps.mirror(image) if kind == "mirrored" else image


def flipped_row(folder: Path, rng: random.Random) -> str:
    moved = flip(folder, rng)
    findings, seconds = audited(folder)
    suspects = [finding.paths[0] for finding in findings if finding.kind == "label_suspect"]
    first = suspects[: len(moved)]
    hits = sum(path in moved for path in first)
    return (
        f"{len(moved)} labels flipped: {len(suspects)} suspects; of the first {len(moved)}, {hits} are flipped "
        f"(precision {hits / len(moved):.3f}); {seconds:.0f} s"
    )


def planted_row(folder: Path, rng: random.Random) -> str:
    before = {frozenset(f.paths) for f in audited(folder)[0] if f.kind == "near_duplicate"}
    planted = plant(folder, rng)
    findings, seconds = audited(folder)
    found = {frozenset(finding.paths) for finding in findings if finding.kind == "near_duplicate"} - before
    missed = Counter(kind for pair, kind in planted.items() if pair not in found)
    hits = len(found & planted.keys())
    return (
        f"{len(planted)} near-duplicates planted: recall {hits / len(planted):.3f}, precision {hits / len(found):.3f} "
        f"({len(before)} were there before); missed {dict(missed) or 'none'}; {seconds:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", metavar="SET", nargs="*", default=["vehicles"])
    sets, home = parser.parse_args().sets, os.environ.get("FINETUNE_DATA")
    if not home:
        sys.exit("set FINETUNE_DATA to the folder that holds `vehicles` and the other sets")
    for name in sets:
        for row in (flipped_row, planted_row):
            with tempfile.TemporaryDirectory() as place:
                copy = Path(shutil.copytree(Path(home) / name, Path(place) / "images"))
                print(f"{name}: {row(copy, random.Random(0))}", flush=True)
        findings, seconds = audited(Path(home) / name)
        counts = Counter(finding.kind for finding in findings)
        print(f"{name} as it is: {sum(counts.values())} findings in {seconds:.0f} s: {dict(counts)}", flush=True)
        for finding in findings:
            print(f"  {finding.kind}: {finding.message}")


if __name__ == "__main__":
    main()

"""What may be wrong with images and folders, as whoever runs the command line meets it.

Broken folders and classes that `run` refuses are in test_bad_input.py; the kinds of images in tests/data.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import subprocess
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import makers
from tests.blackbox.measure import FINETUNE, measured

STRACE = shutil.which("strace")
ONE_EPOCH = ("--epochs", "1", "-o", "model.unfreeze={head: 0}")


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def read(path: Path) -> list[dict[str, str]]:
    return rows(path.read_text(encoding="utf-8"))


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return found


def refused(result: Any, *culprits: str) -> None:
    """Exit code 3; each culprit in an error line; a remedy; no traceback."""
    assert result.rc == 3, result.err
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    for culprit in culprits:
        assert any(culprit in line for line in errors), (culprit, result.err)
    assert "remedy: " in result.err
    assert "Traceback" not in result.err


# --- check: every finding before anything is learned ------------------------------------------------------------------


def test_D01_D02_D03_D25_all_broken_images_are_named_in_little_memory(job: Path) -> None:
    bad = makers.bad_images(job / "images" / "ant")
    before = makers.tree_hash(job / "images")
    result = measured("check", "job.yaml", cwd=job, before=["prlimit", "--as=4000000000"])
    refused(result, *[f"ant/{name}: " for name in bad])
    for name, reason in bad.items():
        assert any(f"ant/{name}: " in line and reason in line for line in result.err.splitlines()), name
    assert result.megabytes < 1000
    skipping = measured("check", "job.yaml", "-o", "data.on_bad=skip", cwd=job)
    assert skipping.rc == 0
    assert all(name in skipping.out for name in bad)
    assert makers.tree_hash(job / "images") == before


@pytest.mark.skipif(STRACE is None, reason="needs strace")
def test_D03_D23_postscript_starts_no_program_and_a_failing_disk_is_named(job: Path) -> None:
    makers.put(job / "images" / "ant" / "eps.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    trace = ["strace", "-f", "-qq", "-e", "trace=execve", "-o", str(job / "trace")]
    refused(measured("check", "images", cwd=job, before=trace), "eps.jpg")
    assert [line for line in (job / "trace").read_text().splitlines() if "execve(" in line][1:] == []
    (job / "images" / "ant" / "eps.jpg").unlink()
    path = job / "images" / "bee" / "003.jpg"
    for call, name in (("read", "EIO"), ("openat", "EACCES")):
        inject = ["strace", "-f", "-qq", "-P", str(path), "-e", f"inject={call}:error={name}", "-o", str(job / "trace")]
        reason = f"bee/003.jpg: cannot be read: {os.strerror(getattr(errno, name))} [{name}]"
        refused(measured("check", "images", cwd=job, before=inject), reason)


def test_D09_D10_D11_D12_what_is_no_sample_hangs_nothing_and_counts_nothing(job: Path, cli: Any) -> None:
    makers.junk(job / "images", "ant")
    makers.special_files(job / "images", "ant")
    makers.put(job / "images" / "ant" / "moving.gif", makers.animation("GIF"))
    makers.put(job / "images" / "ant" / "UPPER.JPG", makers.jpeg(70))
    makers.put(job / "images" / "ant" / "inside.jpg", makers.encoded(makers.photo(71), "PNG"))
    result = cli("check", "images", "--json", cwd=job, timeout=60)
    assert result.rc == 0, result.err
    found = json.loads(result.out)
    assert found["classes"] == {"ant": 10, "bee": 8, "cat": 8}
    notes = "\n".join(found["notes"])
    for part in ("1 file is not a sample: ant/moving.gif", "ant/pipe.jpg", "ant/inside.jpg", "ant/here, ant/up"):
        assert notes.count(part) == 1, notes
    assert "DS_Store" not in notes
    links = makers.bad_links(job / "images", "bee", job / "outside")
    refusing = cli("check", "images", "-o", "data.links=refuse", cwd=job)
    refused(refusing, *[path for path in links], *links.values())


def test_D14_D15_D17_D18_classes_that_cannot_be_learned(tmp_path: Path, cli: Any) -> None:
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    makers.class_folders(tmp_path / "alike", {composed: 3, apart: 3, "Cat": 3, "cat": 3})
    refused(cli("check", "alike"), f"{composed!a} and" if composed < apart else f"{apart!a} and", "'Cat' and 'cat'")
    makers.class_folders(tmp_path / "empty", {"a": 3, "b": 3})
    (tmp_path / "empty" / "hollow").mkdir()
    refused(cli("check", "empty"), "class 'hollow'")
    makers.split_folders(tmp_path / "extra", {"train": {"a": 3, "b": 3}, "val": {"a": 2, "b": 2}})
    (tmp_path / "extra" / "val" / "late").mkdir()
    refused(cli("check", "extra"), "class 'late': is in val/ but not in train/")
    makers.class_folders(tmp_path / "one", {"only": 5})
    refused(cli("check", "one"), "one class only, 'only'")
    makers.class_folders(tmp_path / "lone", {"lone": 1, "single": 1})
    refused(cli("check", "lone"), "class 'single': a single image")
    makers.class_folders(tmp_path / "single", {"many": 5, "single": 1})
    learned = cli("check", "single")
    assert learned.rc == 0, learned.err
    assert "class 'single': a single image, which is learned from" in learned.out


def test_D19_D20_the_same_image_twice_names_both_paths(tmp_path: Path, cli: Any) -> None:
    root = makers.split_folders(tmp_path / "images", {"train": {"a": 20, "b": 20}, "val": {"a": 3, "b": 3}})
    assert cli("check", "images", "--strict").rc == 0
    shutil.copy(root / "train" / "a" / "001.jpg", root / "val" / "a" / "copy.jpg")
    shutil.copy(root / "train" / "a" / "002.jpg", root / "train" / "b" / "copy.jpg")
    found = cli("check", "images")
    assert found.rc == 0
    across_splits = "the same image in train, val: train/a/001.jpg, val/a/copy.jpg"
    across_classes = "the same image in several classes: train/a/002.jpg, train/b/copy.jpg"
    assert across_splits in found.out
    assert across_classes in found.out
    refused(cli("check", "images", "--strict"), across_splits, across_classes)


# --- run and predict -------------------------------------------------------------------------------------------------


def test_D05_D06_D07_D08_D13_D21_D24_D25_one_run_over_everything_odd(job: Path, cli: Any) -> None:
    shutil.rmtree(job / "images")
    root = makers.class_folders(job / "images", {"10": 4, "2": 4, "1": 4, "junk": 4})
    makers.odd_images(root / "10")
    bad = makers.bad_images(root / "2")
    makers.junk(root, "1")
    makers.special_files(root, "1")
    makers.put(root / "1" / os.fsdecode(b"latin-\xe9.jpg"), makers.jpeg(80))
    makers.put(root / "1" / "=1+2.jpg", makers.jpeg(81))
    before = makers.tree_hash(root)
    kept = ("-o", "data.on_bad=skip", "-o", "data.classes=[10, 2, 1]")
    result = cli("run", "job.yaml", "--out", "o", *ONE_EPOCH, *kept, cwd=job, env={"LC_ALL": "C"})
    assert result.rc == 0, result.err
    assert result.err.count("Warning") == 0
    assert len(result.err.splitlines()) < 60 + len(bad)
    table = read(job / "o" / "data.csv")
    assert {row["class"] for row in table} == {"10", "2", "1"}
    assert len(table) == 3 * 4 + 21 + 2
    page = (job / "o" / "report" / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in bad)
    assert json.loads((job / "o" / "model" / "model.json").read_text())["classes"] == ["10", "2", "1"]
    for path in (job / "o").rglob("*"):
        if path.suffix in (".csv", ".json", ".yaml", ".html"):
            path.read_text(encoding="utf-8")
    evaluated = cli("evaluate", "o", "--json", "--split", "train", cwd=job)
    assert evaluated.rc == 0, evaluated.err
    assert json.loads(evaluated.out)["n"] == sum(row["split"] == "train" for row in table)

    elsewhere = job / "elsewhere"
    lying = Image.open(root / "10" / "exif6.jpg")
    upright = lying.transpose(Image.Transpose.ROTATE_270)
    makers.put(elsewhere / "upright.png", makers.encoded(upright, "PNG"))
    os.mkfifo(elsewhere / "pipe.jpg")
    paths = (root, elsewhere, root / "10" / "exif6.jpg")
    found = cli("predict", "o", *paths, "--csv", cwd=job, timeout=60)
    assert found.rc == 0, found.err
    answers = rows(found.out)
    assert len(answers) == len(table) + 4 + len(bad) + 1 + 2 + 1  # junk is a class here, .ipynb_checkpoints is not
    wrong = {Path(row["path"]).name for row in answers if row["error"]}
    assert wrong == {*bad, "pipe.jpg"}
    assert all(row["predicted"] in ("10", "2", "1") for row in answers if not row["error"])
    one, other = answers[-1], next(row for row in answers if row["path"].endswith("upright.png"))
    assert one["predicted"] == other["predicted"]
    assert float(one["confidence"]) == pytest.approx(float(other["confidence"]), abs=1e-6)
    assert cli("predict", "o", root / "2", "--strict", cwd=job).rc == 3
    assert makers.tree_hash(root) == before


def test_D16_a_class_that_val_lacks_has_no_metrics_and_labels_go_by_name(tmp_path: Path, cli: Any) -> None:
    shades = {"black": 20, "grey": 120, "white": 235}
    for split, names, count in (("train", list(shades), 6), ("val", ["grey", "white"], 4)):
        for name in names:
            for number in range(count):
                pixels = np.full((16, 16), shades[name] + number, np.uint8)
                pixels[0, 0] = len(split)
                path = tmp_path / "images" / split / name / f"{number}.png"
                makers.put(path, makers.encoded(Image.fromarray(pixels), "PNG"))
    recipe = """\
data: {folder: images, augment: none}
model: {backbone: small/mlp, unfreeze: {head: 0}, weights_missing: allow}
train: {optimizer: lbfgs}
"""
    (tmp_path / "job.yaml").write_text(recipe)
    result = cli("run", "job.yaml", "--out", "o")
    assert result.rc == 0, result.err
    assert "class 'black': val/ has no images of it" in result.err
    metrics = json.loads((tmp_path / "o" / "report" / "metrics.json").read_text())
    assert (metrics["accuracy"], metrics["macro_f1"]) == (1.0, 1.0)
    black = next(row for row in metrics["per_class"] if row["class"] == "black")
    assert (black["support"], black["recall"], black["f1"], black["f1_low"]) == (0, None, None, None)
    assert "over the 2 of 3 classes" in result.err


def test_D22_an_image_deleted_during_the_run(job: Path, cli: Any) -> None:
    arguments = ("run", "job.yaml", *ONE_EPOCH, "-o", "data.workers=1")
    assert cli(*arguments, "--out", "whole", cwd=job).rc == 0
    path = job / "images" / next(row["path"] for row in read(job / "whole" / "data.csv") if row["split"] == "train")
    content = path.read_bytes()
    process = subprocess.Popen([FINETUNE, *arguments, "--out", "o"], cwd=job, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "images of 3 classes" in line:
            path.unlink()
    process.stderr.close()
    assert process.wait() == 3, lines
    assert any(line.startswith("error: ") and path.name in line and "ENOENT" in line for line in lines), lines
    assert record(job / "o")["status"] == "failed"
    assert cli("verify", "o", cwd=job).rc == 0
    path.write_bytes(content)
    resumed = cli("resume", "o", cwd=job)
    assert resumed.rc == 0, resumed.err
    assert record(job / "o")["weights_sha256"] == record(job / "whole")["weights_sha256"]

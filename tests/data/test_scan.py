"""One scan: which files are samples of which class, and what is said of the rest."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from finetune.data.scan import COLUMNS, scan
from finetune.data.wanted import Wanted
from finetune.errors import DataError, Stopped
from tests import makers

TWO = {"cat": 3, "dog": 2}


def paths(root: Path, **options: object) -> list[str]:
    return list(scan(root, Wanted(**options)).table["path"])


def test_the_table_of_class_folders(tmp_path: Path) -> None:
    root = makers.class_folders(tmp_path, TWO)
    got = scan(root)
    assert tuple(got.table.columns) == COLUMNS
    assert paths(root) == ["cat/000.jpg", "cat/001.jpg", "cat/002.jpg", "dog/000.jpg", "dog/001.jpg"]
    assert list(got.table["class"]) == ["cat"] * 3 + ["dog"] * 2
    assert set(got.table["split"]) == {""}
    first = (root / "cat/000.jpg").read_bytes()
    assert got.table.iloc[0, 3:].tolist() == [hashlib.sha256(first).hexdigest(), len(first), 24, 16, "RGB"]
    assert (got.classes, got.split_layout, got.notes, got.bad) == (["cat", "dog"], False, [], [])


def test_a_split_layout_takes_its_classes_from_train(tmp_path: Path) -> None:
    root = makers.split_folders(tmp_path, {"train": TWO, "val": {"dog": 1, "emu": 1}, "test": {"cat": 1}})
    got = scan(root)
    assert got.split_layout
    assert got.classes == ["cat", "dog"]
    assert got.table["split"].value_counts().to_dict() == {"train": 5, "val": 2, "test": 1}
    assert got.folders == {"train": ["cat", "dog"], "val": ["dog", "emu"], "test": ["cat"]}


def test_chosen_classes_in_their_order(tmp_path: Path) -> None:
    root = makers.class_folders(tmp_path, {"1": 1, "10": 1, "2": 1, "café": 1})
    assert scan(root).classes == ["1", "10", "2", "café"]
    got = scan(root, Wanted(classes=("2", "1")))
    assert got.classes == ["2", "1"]
    assert list(got.table["path"]) == ["1/000.jpg", "2/000.jpg"]
    with pytest.raises(DataError) as caught:
        scan(root, Wanted(classes=("cafe", "1", "1", "cafe\u0301")))
    assert "'cafe' is no class folder" in caught.value.problems[0]
    assert "did you mean 'café'" in caught.value.problems[0]
    assert "code points" in caught.value.problems[1]
    assert "'1' is named twice" in caught.value.problems[2]


def test_a_scan_needs_no_torch() -> None:
    code = "import sys, finetune.data.audit, finetune.data.crop; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_deeper_folders_belong_to_their_class(tmp_path: Path) -> None:
    root = makers.class_folders(tmp_path, TWO)
    makers.put(root / "cat/more/still more/x.jpg", makers.jpeg(7))
    assert "cat/more/still more/x.jpg" in paths(root)
    assert scan(root).classes == ["cat", "dog"]


def test_what_is_no_sample_is_counted_and_named_once(tmp_path: Path) -> None:
    root = makers.class_folders(tmp_path, TWO)
    makers.put(root / "cat/a.gif", makers.animation("GIF"))
    makers.put(root / "README.md", b"words")
    for number in range(7):
        makers.put(root / f"loose{number}.png", makers.encoded(makers.photo(number), "PNG"))
    got = scan(root)
    assert len(got.table) == 5
    assert got.notes == [
        "2 files are not samples: README.md, cat/a.gif",
        "7 images lie in no class folder and are not used: "
        "loose0.png, loose1.png, loose2.png, loose3.png, loose4.png and 2 more",
    ]


def test_hidden_and_system_files_are_no_samples_no_classes_and_no_news(tmp_path: Path) -> None:
    root = makers.class_folders(tmp_path, TWO)
    makers.junk(root, "cat")
    got = scan(root)
    assert (len(got.table), got.classes, got.notes) == (5, ["cat", "dog"], [])


def test_odd_images_are_all_samples(tmp_path: Path) -> None:
    odd = makers.odd_images(tmp_path / "odd")
    got = scan(makers.class_folders(tmp_path, TWO))
    table = got.table.set_index("path")
    assert len(table) == len(odd) + 5
    assert table.loc["odd/exif6.jpg", ["width", "height"]].tolist() == [16, 24]
    assert table.loc["odd/ramp16.png", "mode"] == "I;16"
    assert table.loc["odd/thread.png", "height"] == 30_000
    assert got.notes == [
        "1 image has several frames: the first counts: odd/animated.webp",
        "1 image has another format than its name says: odd/png_inside.jpg",
        "3 images of more than 8 bits: 0 is black, 65535 is white (data.range)",
    ]


def test_bad_images_stop_the_scan_all_at_once(tmp_path: Path) -> None:
    root = makers.class_folders(tmp_path, TWO)
    reasons = makers.bad_images(root / "cat")
    with pytest.raises(DataError) as caught:
        scan(root)
    assert len(caught.value.problems) == len(reasons)
    for name, reason in reasons.items():
        (line,) = [line for line in caught.value.problems if line.startswith(f"{root}/cat/{name}: ")]
        assert reason in line
    assert "on_bad" in caught.value.remedy


def test_bad_images_can_be_skipped(tmp_path: Path) -> None:
    root = makers.class_folders(tmp_path, TWO)
    reasons = makers.bad_images(root / "cat")
    got = scan(root, Wanted(on_bad="skip"))
    assert len(got.table) == 5
    assert [path for path, _ in got.bad] == sorted(f"cat/{name}" for name in reasons)


def test_links_in_circles_and_pipes_change_nothing(tmp_path: Path) -> None:
    root = makers.class_folders(tmp_path, TWO)
    expected = paths(root)
    makers.special_files(root, "cat")
    got = scan(root)
    assert list(got.table["path"]) == expected
    assert (got.classes, got.bad) == (["cat", "dog"], [])
    assert "1 image is not a regular file and was skipped: cat/pipe.jpg" in got.notes


def test_links_that_lead_nowhere_or_out_are_bad(tmp_path: Path) -> None:
    root = makers.class_folders(tmp_path / "data", TWO)
    reasons = makers.bad_links(root, "cat", tmp_path / "elsewhere")
    got = scan(root, Wanted(on_bad="skip", links="refuse"))
    assert len(got.table) == 5
    assert got.classes == ["cat", "dog"]
    assert [path for path, _ in got.bad] == sorted(reasons)
    for path, reason in got.bad:
        assert reasons[path] in reason
    with pytest.raises(DataError, match="data.links is refuse"):
        scan(root, Wanted(links="refuse"))


def test_links_inside_the_root_bring_each_image_once(tmp_path: Path) -> None:
    root = makers.class_folders(tmp_path, TWO)
    makers.put(root / ".store/kept.jpg", makers.jpeg(9))
    makers.put(root / ".store/emu/e.jpg", makers.jpeg(10))
    (root / "cat/kept.jpg").symlink_to("../.store/kept.jpg")
    (root / "cat/kept again.jpg").symlink_to("../.store/kept.jpg")
    (root / "cat/a dog.jpg").symlink_to("../dog/000.jpg")
    (root / "cat/dogs").symlink_to("../dog")
    (root / "emu").symlink_to(".store/emu")
    (root / "hound").symlink_to("dog")
    got = scan(root)
    assert got.classes == ["cat", "dog", "emu"]
    assert list(got.table["path"]) == sorted(
        ["cat/000.jpg", "cat/001.jpg", "cat/002.jpg", "cat/kept again.jpg", "dog/000.jpg", "dog/001.jpg", "emu/e.jpg"]
    )
    (note,) = got.notes
    assert note == "4 files are links to what is counted already: cat/a dog.jpg, cat/dogs, cat/kept.jpg, hound"


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    makers.class_folders(tmp_path / "real", TWO)
    (tmp_path / "link").symlink_to("real")
    assert len(scan(tmp_path / "link").table) == 5


def test_hostile_names(tmp_path: Path) -> None:
    root = makers.class_folders(tmp_path, dict.fromkeys(makers.HOSTILE_NAMES, 2))
    for name in makers.HOSTILE_NAMES:
        makers.put(root / name / f"{name}.jpg", makers.jpeg(len(name)))
        makers.put(root / name / f"{name}.txt", b"")
    makers.put(root / makers.HOSTILE_NAMES[3] / "bad.jpg", b"")
    got = scan(root, Wanted(on_bad="skip"))
    assert sorted(got.classes) == got.classes == sorted(makers.HOSTILE_NAMES)
    assert len(got.table) == 3 * len(makers.HOSTILE_NAMES)
    assert all(note.isprintable() for note in got.notes)
    with pytest.raises(DataError) as caught:
        scan(root)
    assert all(line.isprintable() for line in caught.value.problems)


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    makers.class_folders(tmp_path / "vehicles", TWO)
    with pytest.raises(DataError, match=r"no such folder \(did you mean 'vehicles'"):
        scan(tmp_path / "vehicels")
    with pytest.raises(DataError, match="a file, not a folder"):
        scan(makers.put(tmp_path / "file", b""))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images in class folders"):
        scan(tmp_path / "empty")
    with pytest.raises(DataError, match=r"3 images lie directly in it, outside any class folder"):
        scan(tmp_path / "vehicles" / "cat")
    makers.put(tmp_path / "spoilt/a/x.jpg", b"")
    with pytest.raises(DataError, match="no readable image"):
        scan(tmp_path / "spoilt", Wanted(on_bad="skip"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_names_the_error(tmp_path: Path) -> None:
    root = makers.class_folders(tmp_path, TWO)
    (root / "cat/000.jpg").chmod(0)
    with pytest.raises(DataError, match=r"cat/000\.jpg: cannot be read: Permission denied \[EACCES\]"):
        scan(root)


def test_a_folder_that_cannot_be_listed_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = makers.class_folders(tmp_path, TWO)
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"dog: folder cannot be listed: Permission denied \[EACCES\]"):
        scan(root)


def test_ticks_count_up_and_may_stop_the_scan(tmp_path: Path) -> None:
    root = makers.class_folders(tmp_path, {"cat": 30, "dog": 30})
    ticks: list[tuple[int, int]] = []
    scan(root, tick=lambda done, total: ticks.append((done, total)))
    assert ticks == [(n, 60) for n in range(1, 61)]

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise Stopped(15, "stopped")

    before = threading.active_count()
    with pytest.raises(Stopped):
        scan(root, tick=stop)
    assert threading.active_count() == before


def test_nothing_depends_on_the_number_of_workers_and_nothing_is_written(tmp_path: Path) -> None:
    root = makers.class_folders(tmp_path, TWO)
    makers.odd_images(root / "odd")
    makers.bad_images(root / "cat")
    before = makers.tree_hash(root)
    one, many = (scan(root, Wanted(on_bad="skip"), workers=workers) for workers in (1, 7))
    assert one.table.equals(many.table)
    assert one.bad == many.bad
    assert one.notes == many.notes
    assert makers.tree_hash(root) == before


def test_each_image_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = makers.class_folders(tmp_path, TWO)
    real, opened = os.open, []

    def counting(path: Path, *rest: int) -> int:
        opened.append(str(path))
        return real(path, *rest)

    monkeypatch.setattr(os, "open", counting)
    table = scan(root).table
    assert sorted(opened) == [str(root / path) for path in table["path"]]


def test_real_folders(real_data: Path) -> None:
    bees = scan(real_data / "hymenoptera_data")
    assert bees.table["split"].value_counts().to_dict() == {"train": 244, "val": 153}
    assert bees.classes == ["ants", "bees"]
    assert bees.notes == ["1 file is not a sample: train/ants/imageNotFound.gif"]
    formica = bees.table.set_index("path").loc["train/ants/formica.jpeg"]
    with Image.open(real_data / "hymenoptera_data/train/ants/formica.jpeg") as image:
        assert image.size == (formica["width"], formica["height"])
    vehicles = scan(real_data / "vehicles")
    assert len(vehicles.table) == 2053
    assert len(vehicles.classes) == 7

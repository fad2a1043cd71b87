"""Image folders as scripts use them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finetune.data.dataset import ImageSet
from finetune.data.folder import ImageFolder
from finetune.errors import DataError
from tests import makers

MANY = {"cat": 20, "dog": 30}


def test_train_val_and_test(tmp_path: Path) -> None:
    folder = ImageFolder(makers.class_folders(tmp_path, MANY))
    data = folder.split(val=0.2, test=0.1, seed=0)
    assert data.test is not None
    assert (len(data.train), len(data.val), len(data.test)) == (35, 10, 5)
    assert data.classes == folder.classes == ["cat", "dog"]
    assert sorted([*data.train.hashes, *data.val.hashes, *data.test.hashes]) == sorted(folder.table["sha256"])
    assert all(path.is_file() for path in data.val.paths)
    assert set(folder.table["split"]) == {""}, "splitting leaves the folder as it is"


def test_no_test_split_where_none_is_wanted(tmp_path: Path) -> None:
    data = ImageFolder(makers.class_folders(tmp_path, MANY)).split(val=0.2, test=0)
    assert data.test is None
    assert len(data.train) + len(data.val) == 50


def test_a_split_folder_keeps_its_own_split_and_says_so(tmp_path: Path) -> None:
    root = makers.split_folders(tmp_path, {"train": MANY, "val": {"cat": 3, "dog": 4}})
    data = ImageFolder(root).split(val=0.5, test=0.4, seed=9)
    assert (len(data.train), len(data.val), data.test) == (50, 7, None)
    assert data.notes == ["split by the folder itself: train/ and val/"]


def test_labels_go_by_name(tmp_path: Path) -> None:
    root = makers.split_folders(tmp_path, {"train": MANY, "val": {"dog": 4}})
    data = ImageFolder(root, classes=["dog", "cat"]).split()
    assert data.val.labels.tolist() == [0, 0, 0, 0]
    assert data.val.labels.dtype == np.int64
    assert [data.classes[label] for label in data.train.labels] == list(data.train.table["class"])
    stranger = ImageSet(root, data.train.table, ["cat", "emu"])
    with pytest.raises(DataError, match="class 'dog'"):
        _ = stranger.labels


def test_unusable_folders_are_refused(tmp_path: Path) -> None:
    root = makers.class_folders(tmp_path, {**MANY, "empty": 0, "lone": 1})
    with pytest.raises(DataError) as caught:
        ImageFolder(root)
    assert caught.value.problems == ["class 'empty': has no images of it"]  # one image is enough, beside larger classes
    assert len(ImageFolder(root, classes=["cat", "dog"])) == 50


def test_bad_images_are_skipped_only_when_asked(tmp_path: Path) -> None:
    root = makers.class_folders(tmp_path, MANY)
    makers.put(root / "cat/zero.jpg", b"")
    with pytest.raises(DataError, match=r"cat/zero\.jpg"):
        ImageFolder(root)
    folder = ImageFolder(root, on_bad="skip")
    assert [path for path, _ in folder.bad] == ["cat/zero.jpg"]
    assert any("cat/zero.jpg" in note for note in folder.notes)
    assert len(folder) == 50


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    data = ImageFolder(makers.class_folders(tmp_path, dict.fromkeys(makers.HOSTILE_NAMES, 4))).split()
    assert len(data.train) == 2 * len(makers.HOSTILE_NAMES)
    assert all(path.is_file() for path in data.train.paths)
    assert repr(data).isprintable()

"""The audit: what stops a run, what is only said, and that both paths of a duplicate are named."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.data.audit import Finding, audit, require_usable
from finetune.data.scan import scan
from finetune.data.split import split
from finetune.data.wanted import Wanted
from finetune.errors import DataError
from tests import makers

MANY = {"cat": 20, "dog": 20}


def findings(root: Path, **options: object) -> list[Finding]:
    return audit(scan(root, Wanted(**options)))


def kinds(root: Path) -> dict[str, str]:
    return {finding.kind: finding.severity for finding in findings(root)}


def test_a_sound_folder_has_no_findings(tmp_path: Path) -> None:
    assert findings(makers.class_folders(tmp_path, MANY)) == []


def test_all_errors_are_raised_at_once(tmp_path: Path) -> None:
    root = makers.class_folders(tmp_path, {**MANY, "empty": 0, "lone": 1, "Cat": 20})
    with pytest.raises(DataError) as caught:
        require_usable(findings(root))
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 2
    assert "'Cat' and 'cat'" in text
    assert "'empty'" in text
    assert caught.value.remedy
    assert kinds(root)["single image"] == "warning"


def test_one_class(tmp_path: Path) -> None:
    assert kinds(makers.class_folders(tmp_path, {"cat": 20})) == {"one class": "error"}


def test_names_that_differ_in_code_points(tmp_path: Path) -> None:
    root = makers.class_folders(tmp_path, {"caf\u00e9": 20, "cafe\u0301": 20, "STRASSE": 20, "straße": 20})
    if len(os.listdir(root)) < 4:
        pytest.skip("this file system takes them for one")
    messages = [finding.message for finding in findings(root) if finding.kind == "name collision"]
    assert len(messages) == 2
    assert r"'caf\xe9'" in messages[0] + messages[1]
    assert r"'cafe\u0301'" in messages[0] + messages[1]


def test_a_class_only_in_val_is_an_error_even_when_empty(tmp_path: Path) -> None:
    root = makers.split_folders(tmp_path, {"train": MANY, "val": {**MANY, "emu": 0}, "test": {"fox": 2, "cat": 1}})
    found = findings(root)
    assert [finding.message.split(":")[0] for finding in found if finding.severity == "error"] == [
        "class 'emu'",
        "class 'fox'",
    ]
    missing = [finding for finding in found if finding.kind == "class missing"]
    assert len(missing) == 1
    assert "'dog': test/" in missing[0].message


def test_a_class_missing_in_val_is_a_warning(tmp_path: Path) -> None:
    root = makers.split_folders(tmp_path, {"train": MANY, "val": {"dog": 2}})
    assert kinds(root) == {"class missing": "warning"}


def test_an_empty_class_of_train_and_an_empty_split_are_errors(tmp_path: Path) -> None:
    root = makers.split_folders(tmp_path, {"train": {**MANY, "emu": 0}, "val": MANY, "test": {"cat": 0}})
    assert kinds(root) == {"empty class": "error", "empty split": "error"}
    shutil.rmtree(root / "train")
    (root / "train").mkdir()
    assert "empty split" in kinds(root)


def test_duplicates_name_both_paths(tmp_path: Path) -> None:
    root = makers.split_folders(tmp_path, {"train": MANY, "val": MANY})
    shutil.copy(root / "train/cat/000.jpg", root / "val/cat/leak.jpg")
    shutil.copy(root / "train/cat/001.jpg", root / "train/dog/twin.jpg")
    shutil.copy(root / "train/cat/002.jpg", root / "train/cat/again.jpg")
    found = findings(root)
    assert {finding.kind: finding.severity for finding in found} == {
        "duplicates across splits": "warning",
        "duplicates across classes": "warning",
        "duplicates": "note",
    }
    by_kind = {finding.kind: finding.message for finding in found}
    assert "train/cat/000.jpg, val/cat/leak.jpg" in by_kind["duplicates across splits"]
    assert "train/cat/001.jpg, train/dog/twin.jpg" in by_kind["duplicates across classes"]
    assert "train/cat/002.jpg, train/cat/again.jpg" in by_kind["duplicates"]
    require_usable(found)


def test_our_own_split_leaks_no_duplicate(tmp_path: Path) -> None:
    root = makers.class_folders(tmp_path, MANY)
    for number in range(10):
        shutil.copy(root / f"cat/{number:03}.jpg", root / f"cat/copy{number}.jpg")
    got = scan(root)
    assert {
        finding.kind for finding in audit(replace(got, table=got.table.assign(split=split(got.table, 0.2, 0.2, 0))))
    } == {"duplicates"}


def test_few_images_and_unreadable_ones_are_warnings(tmp_path: Path) -> None:
    root = makers.class_folders(tmp_path, {"cat": 19, "dog": 20})
    makers.put(root / "dog/zero.jpg", b"")
    found = findings(root, on_bad="skip")
    assert {finding.kind: finding.severity for finding in found} == {"unreadable": "warning", "few images": "warning"}
    assert any("dog/zero.jpg: empty file" in finding.message for finding in found)
    assert any("cat (19)" in finding.message for finding in found)


def test_messages_are_one_line_whatever_the_names(tmp_path: Path) -> None:
    root = makers.class_folders(tmp_path, dict.fromkeys(makers.HOSTILE_NAMES, 1))
    found = findings(root)
    assert found
    assert all(finding.message.isprintable() for finding in found)

"""Files in class folders by their predictions: nothing is replaced, nothing is lost, and by default nothing is done."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import Classifier
from finetune.append import place_copy, place_moved
from finetune.cli.main import cli as commands
from finetune.deliver.predict import Prediction
from finetune.deliver.sort import Sorter
from finetune.errors import ResourceError, UsageError
from tests import makers


def row(path: Path, label: str | None = "cat") -> Prediction:
    return Prediction(str(path), label, 0.9)


@pytest.mark.parametrize("move", [True, False])
def test_names_that_are_taken_are_numbered(tmp_path: Path, move: bool) -> None:
    files = [makers.put(tmp_path / f"in/{n}/a.jpg", f"{n}".encode()) for n in range(3)]
    there = makers.put(tmp_path / "out/cat/a.jpg", b"mine")
    before = makers.tree_hash(tmp_path)
    plan = Sorter(tmp_path / "out", ["cat"], move=move, apply=False)
    planned = [plan.place(row(file)) for file in files]
    assert makers.tree_hash(tmp_path) == before
    sorter = Sorter(tmp_path / "out", ["cat"], move=move, apply=True)
    placed = [sorter.place(row(file)) for file in files]
    assert placed == planned == [tmp_path / f"out/cat/a-{n}.jpg" for n in (2, 3, 4)]
    assert [path.read_bytes() for path in placed] == [b"0", b"1", b"2"]
    assert there.read_bytes() == b"mine"
    assert [file.exists() for file in files] == [not move] * 3
    assert len(list((tmp_path / "out/cat").iterdir())) == 4
    assert sorter.counts == {"cat": 3}


def test_what_has_no_label_stays(tmp_path: Path) -> None:
    file = makers.put(tmp_path / "in/a.jpg", b"a")
    (tmp_path / "in/link.jpg").symlink_to("a.jpg")
    sorter = Sorter(tmp_path / "out", ["cat"], move=True, apply=True)
    assert sorter.place(row(file, None)) is None
    assert sorter.place(row(tmp_path / "in/link.jpg")) is None
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "a\0b"])
def test_a_class_that_is_no_folders_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a folder"):
        Sorter(tmp_path, ["cat", name], move=True, apply=True)


def test_to_another_file_system_it_is_copied_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, link = makers.put(tmp_path / "a.jpg", b"a"), os.link

    def apart(file: Any, target: Any) -> None:
        if Path(file) == source:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(file, target)

    monkeypatch.setattr(os, "link", apart)
    assert place_moved(source, tmp_path / "out/a.jpg")
    assert not source.exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.jpg"]


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = makers.put(tmp_path / "a.jpg", b"a")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left"):
        place_copy(source, tmp_path / "out/a.jpg")
    assert list(tmp_path.joinpath("out").iterdir()) == []


def test_the_command(tmp_path: Path, capsys: Any) -> None:
    torch.manual_seed(0)
    options = {"preprocess": {"size": 32, "mean": [0.5] * 3, "std": [0.2] * 3}, "device": "cpu"}
    bundle = Classifier("timm/test_resnet", ["ant", "bee"], weights="none", **options).save(tmp_path / "bundle")
    for number in range(4):
        makers.put(tmp_path / f"in/{number}.jpg", makers.jpeg(number))
    makers.put(tmp_path / "in/broken.jpg", b"no picture")
    before = makers.tree_hash(tmp_path)

    def call(*more: str) -> tuple[str, str]:
        arguments = ["predict", str(bundle), str(tmp_path / "in"), *more]
        commands.main(args=arguments, standalone_mode=False)
        return capsys.readouterr()

    target = tmp_path / "in/sorted"  # inside: what is sorted already must not be sorted again
    out, err = call("--move-to", str(target))
    assert out.count(f"  → {target}/") == 4
    assert "4 of 5 files would be moved" in err
    assert "add --apply" in err
    assert makers.tree_hash(tmp_path) == before
    _, err = call("--move-to", str(target), "--apply")
    assert "4 of 5 files moved" in err
    assert sorted(path.name for path in target.rglob("*.jpg")) == [f"{n}.jpg" for n in range(4)]
    _, err = call("--move-to", str(target), "--apply")
    assert "0 of 1 files moved" in err
    for wrong in (["--apply"], ["--move-to", "x", "--copy-to", "x"], ["--move-to", "x", "--out", "x.csv"]):
        with pytest.raises(UsageError):
            call(*wrong)

"""`finetune predict` on many files: a table that grows, is stopped, and is gone on with; and what it refuses."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import parquet

from finetune import Classifier
from finetune.cli.main import cli as commands
from finetune.data.find import Files
from finetune.deliver.predict import Prediction
from finetune.deliver.predictor import Predictor
from finetune.deliver.table import PredictionTable
from finetune.errors import ArtefactError, DataError, FinetuneError, Stopped, UsageError
from tests import makers

CLASSES = ["=ant", "bee", "two\nlines"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    options = {"preprocess": {"size": 32, "mean": [0.5] * 3, "std": [0.2] * 3}, "device": "cpu"}
    return Classifier("timm/test_resnet", CLASSES, weights="none", **options).save(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(70):
        makers.put(tmp_path / f"images/{number % 3}/{number:02}.jpg", makers.jpeg(number))
    makers.put(tmp_path / "images/1/broken.jpg", b"no picture")
    makers.put(tmp_path / "images/2/=1+2.jpg", makers.jpeg(1))
    makers.put(tmp_path / "images/2/a\nb.jpg", makers.jpeg(2))
    makers.put(tmp_path / os.fsdecode(b"images/2/latin-\xe9.jpg"), makers.jpeg(3))
    return tmp_path / "images"


def call(*arguments: str | Path) -> None:
    """The command, in this process; its errors are raised."""
    commands.main(args=["predict", *map(str, arguments)], standalone_mode=False)


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    text = path.read_bytes().decode()
    assert text.endswith("\n")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return list(csv.DictReader(io.StringIO(text)))


def near(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Text for comparing: numbers to 4 digits, since the last bits hang on who shares a batch."""
    return [{key: re.sub(r"(0\.\d{4})\d*", r"\1", str(value)) for key, value in row.items()} for row in rows]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_one_row_a_file_and_a_resumed_table_has_each_once(
    bundle: Path, images: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    whole, out = tmp_path / f"whole.{kind}", tmp_path / f"new/out.{kind}"
    call(bundle, images, "--out", whole)
    expected = rows_of(whole)
    assert len(expected) == 74
    assert "whole" in capsys.readouterr().err
    prepare, seen, stopping = Predictor.prepare, [], []

    def stop_in_the_middle(self: Predictor, picture: Any) -> Any:
        seen.append(picture)
        if len(seen) == 30 and not stopping:
            stopping.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        return prepare(self, picture)

    monkeypatch.setattr(Predictor, "prepare", stop_in_the_middle)
    with pytest.raises(Stopped, match="--resume") as stopped:
        call(bundle, images, "--out", out)
    assert stopped.value.exit_code == 130
    growing = out if kind != "parquet" else out.with_name("out.parquet.rows")
    assert growing.read_bytes().count(b"\n") >= 32
    with open(growing, "ab") as file:
        file.write(b'{"path": "cut sho')  # as a crash leaves it
    seen.clear()
    call(bundle, images, "--out", out, "--resume")
    assert len(seen) < 74
    assert near(rows_of(out)) == near(expected)
    call(bundle, images, "--out", out, "--resume")
    assert near(rows_of(out)) == near(expected)
    assert sorted(path.name for path in out.parent.iterdir()) == [out.name]
    if kind == "csv":
        assert expected[0].keys() >= {"path", "label", "confidence", "abstained", "error", "p:=ant"}


def test_the_rows_are_those_of_the_terminal(bundle: Path, images: Path, tmp_path: Path, capsys: Any) -> None:
    os.remove(os.fsdecode(os.fsencode(images) + b"/2/latin-\xe9.jpg"))  # the terminal's own encoding is not at stake
    call(bundle, images, "--out", tmp_path / "o.jsonl", "--topk", "2", "--threshold", "0.5")
    call(bundle, images, "--out", tmp_path / "o.csv", "--threshold", "0.5")
    capsys.readouterr()
    call(bundle, images, "--json", "--topk", "2", "--threshold", "0.5")
    told = json.loads(capsys.readouterr().out)["predictions"]
    lines, cells = rows_of(tmp_path / "o.jsonl"), rows_of(tmp_path / "o.csv")
    assert lines == told
    abstained = [row["abstained"] for row in told]
    assert True in abstained
    assert False in abstained
    for row, cell in zip(told, cells, strict=True):
        assert cell["abstained"] == str(row["abstained"]).lower()
        assert (cell["label"] == "") == (row["abstained"] or row["error"] is not None)
        assert cell["confidence"] == ("" if row["error"] else repr(row["confidence"]))
    (broken,) = [row for row in told if row["error"]]
    assert broken["path"].endswith("broken.jpg")
    call(bundle, images, "--threshold", "0.5")
    assert "  not sure: " in capsys.readouterr().out


def test_the_threshold_is_the_runs_own_or_the_one_found(
    bundle: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    fitted = tmp_path / "fitted"
    shutil.copytree(bundle, fitted)

    def labelled(*options: str, **values: float) -> int:
        told = json.loads((bundle / "model.json").read_text()) | values
        (fitted / "model.json").write_text(json.dumps(told))
        call(fitted, images / "0", "--json", *options)
        return sum(row["label"] is not None for row in json.loads(capsys.readouterr().out)["predictions"])

    assert labelled() == 24
    assert labelled(threshold=1.0) == 0
    assert labelled("--threshold", "0", threshold=1.0) == 24
    assert labelled("--threshold", "auto", auto_threshold=1.0) == 0
    with pytest.raises(UsageError, match="threshold: auto"):
        labelled("--threshold", "auto")


def test_paths_come_from_stdin(bundle: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [images / "0/00.jpg", images / "absent.jpg", Path(os.fsdecode(b"images/2/latin-\xe9.jpg"))]
    monkeypatch.chdir(tmp_path)
    given = b"\n".join(os.fsencode(name) for name in names) + b"\n\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    call(bundle, "-", "--out", "o.csv")
    rows = rows_of(tmp_path / "o.csv")
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert "No such file" in rows[1]["error"]


def test_bad_files_are_rows_and_strict_says_so(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    bad = makers.bad_images(tmp_path / "bad")
    out = tmp_path / "o.csv"
    call(bundle, *[tmp_path / "bad" / name for name in bad], "--out", out)
    assert [bool(row["error"]) for row in rows_of(out)] == [True] * len(bad)
    with pytest.raises(DataError, match=rf"{len(bad)} of {len(bad)} files could not be read") as raised:
        call(bundle, *[tmp_path / "bad" / name for name in bad], "--strict")
    assert raised.value.exit_code == 3


def test_a_summary_is_one_json_object(bundle: Path, images: Path, tmp_path: Path, capsys: Any) -> None:
    call(bundle, images, "--out", tmp_path / "o.csv", "--json")
    told = json.loads(capsys.readouterr().out)
    assert {key: told[key] for key in ("images", "before", "errors", "abstained")} == {
        "images": 74,
        "before": 0,
        "errors": 1,
        "abstained": 0,
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "there.csv"], "there.csv already exists"),
        (["--out", "o.xlsx"], ".xlsx: its name ends in none of"),
        (["--out", "o.csv", "--csv"], "--csv writes to stdout"),
        (["--resume"], "--resume adds to a file"),
        (["-"], "list of files comes from stdin"),
        (["--out", "other.csv", "--resume"], "columns of other classes"),
        (["--out", "other.parquet", "--resume"], "not readable as Parquet"),
        (["--out", "other.jsonl", "--resume"], "line 1 is no prediction"),
    ],
)
def test_what_cannot_be_is_refused(
    bundle: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("there.csv", "other.csv", "other.parquet", "other.jsonl"):
        (tmp_path / name).write_text("path,label,p:others\n")
    with pytest.raises((UsageError, ArtefactError)) as raised:
        call(bundle, images / "0/00.jpg", *arguments)
    assert said in str(raised.value)


def test_a_full_disk_says_how_to_go_on(tmp_path: Path) -> None:
    table = PredictionTable(tmp_path / "o.csv", ["a"])

    def add() -> None:
        with table.opened() as file:
            file.add([Prediction("x.jpg", "a", 1.0, {"a": 1.0})])
            raise OSError(28, "No space left on device")

    with pytest.raises(FinetuneError, match="No space left") as raised:
        add()
    assert (raised.value.exit_code, "--resume" in raised.value.remedy) == (6, True)
    assert len(PredictionTable(tmp_path / "o.csv", ["a"], resume=True)) == 1


def test_files_are_listed_in_order_and_anew(images: Path) -> None:
    files = Files([images, images / "0/00.jpg", str(images / "1/1*.jpg")])
    assert list(files) == list(files)
    below = [path for path in files if path.is_relative_to(images)][:74]
    assert below == sorted(images.rglob("*.jpg"))
    makers.put(images / ".hidden/x.jpg", b"")
    makers.put(images / "3/._x.jpg", b"")
    assert list(Files([images])) == below
    with pytest.raises(DataError) as raised:
        Files([images / "absent.jpg", images / "3", "*.none"])
    assert len(raised.value.problems) == 3

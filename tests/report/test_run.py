"""A run whose report cannot be drawn is a finished run."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import finetune as ft
from finetune.deliver import publish
from finetune.report import files
from finetune.report.gallery import HEATS
from finetune.report.thumbnails import SIDE
from tests.makers import class_folders


def test_no_fault_of_the_report_makes_a_run_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise OverflowError("cannot convert float infinity to integer")

    makers = [(files, "render"), (files, "write_csv"), (files.plots, "confusion_png")]
    for module, name in [*makers, (publish, "example"), (publish, "heats_of")]:
        monkeypatch.setattr(module, name, broken)
    recipe = {
        "data": {"folder": str(class_folders(tmp_path / "photos", {"ant": 8, "bee": 8})), "augment": "none"},
        "model": {"backbone": "small/mlp"},
        "train": {"epochs": 1},
    }
    run = ft.run(recipe, out=tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "finished"
    missing = [line.split(" is missing")[0] for line in record["warnings"] if "OverflowError" in line]
    assert missing == [
        "features.png",
        "per_class.csv",
        "confusion.csv",
        "predictions.csv",
        "confusion.png",
        "what spoke for the mistakes",
        "report.html",
    ]
    assert (run / "model" / "model.safetensors").is_file()
    assert (run / "report" / "calibration.png").is_file()
    assert ft.load(run).classes == ["ant", "bee"]


@pytest.fixture(scope="module")
def guesses(tmp_path_factory: pytest.TempPathFactory) -> ft.Run:
    """A run whose network can but guess: its features are random, and its images are noise."""
    folder = tmp_path_factory.mktemp("guesses")
    counts = {"ant": 14, "bee": 14, "<cat>": 14}
    recipe = {
        "data": {"folder": str(class_folders(folder / "photos", counts)), "augment": "none", "split": {"test": 0.0}},
        "model": {
            "backbone": "timm/test_resnet",
            "weights": "none",
            "weights_missing": "allow",
            "preprocess": {"size": 64},
            "unfreeze": {"head": 0},
        },
    }
    return ft.run(recipe, out=folder / "run")


def test_the_surest_mistakes_are_shown_with_what_spoke_for_the_answer(guesses: ft.Run) -> None:
    page = (guesses / "report" / "report.html").read_text()
    found = re.findall(r'<img alt="What spoke for ([^"]+)" src="data:image/jpeg;base64,([^"]+)"', page)
    table = guesses.predictions
    wrong = table[table["class"] != table["predicted"]].sort_values("confidence", ascending=False, kind="stable")
    assert len(wrong) > HEATS
    assert [name.replace("&lt;", "<").replace("&gt;", ">") for name, _ in found] == list(wrong["predicted"][:HEATS])
    pictures = [Image.open(io.BytesIO(base64.b64decode(data))) for _, data in found]
    assert all(max(picture.size) <= SIDE for picture in pictures)
    assert max(len(data) for _, data in found) < 12_000
    assert len({data for _, data in found}) == HEATS


def test_without_a_layer_that_tells_places_apart_the_mistakes_are_shown_alone(tmp_path: Path) -> None:
    recipe = {
        "data": {"folder": str(class_folders(tmp_path / "photos", {"ant": 12, "bee": 12})), "augment": "none"},
        "model": {"backbone": "small/mlp"},
        "train": {"epochs": 1},
    }
    run = ft.run(recipe, out=tmp_path / "run")
    page = (run / "report" / "report.html").read_text()
    assert "look here for wrong labels" in page
    assert "What spoke for" not in page
    assert not [line for line in run.record.warnings if "missing" in line]

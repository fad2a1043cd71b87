"""A run whose report cannot be drawn is a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import finetune as ft
from finetune.deliver import publish
from finetune.report import files
from tests.makers import class_folders


def test_no_fault_of_the_report_makes_a_run_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise OverflowError("cannot convert float infinity to integer")

    for module, name in [(files, "render"), (files, "write_csv"), (files.plots, "confusion_png"), (publish, "example")]:
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
        "report.html",
    ]
    assert (run / "model" / "model.safetensors").is_file()
    assert (run / "report" / "calibration.png").is_file()
    assert ft.load(run).classes == ["ant", "bee"]

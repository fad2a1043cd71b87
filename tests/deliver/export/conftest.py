"""One run, and the exports that docs/export.md asks for: made once, looked at by all tests of this room."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import finetune as ft
from finetune.cli.export import export
from finetune.deliver.export import latency
from tests import makers

GUIDE = Path(__file__).parents[3] / "docs" / "export.md"
CLASSES = ["ant", "bee", "cat"]


@pytest.fixture(scope="session", autouse=True)
def _few_repeats() -> Iterator[None]:
    """One repeat shows that latency is measured; how long it takes is no test's question."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "SECONDS", 0.0)
        yield


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`runs/vehicles/001` beside its `images`: one of them grey, one tall, one much larger, one a PNG."""
    folder = tmp_path_factory.mktemp("export")
    images = makers.class_folders(folder / "images", {name: 12 for name in CLASSES})
    makers.put(images / "ant" / "grey.jpg", makers.encoded(makers.photo(7, 50, 70).convert("L")))
    makers.put(images / "bee" / "large.jpg", makers.jpeg(8, 900, 700))
    makers.put(images / "cat" / "clear.png", makers.encoded(makers.photo(9, 33, 90), "PNG"))
    recipe = {
        "data": {"folder": str(images), "split": {"val": 0.25, "test": 0.4}, "augment": "none"},
        "model": {"backbone": "timm/test_resnet", "weights": "none", "preprocess": {"size": 48}},
        "train": {"epochs": 1, "batch_size": 8, "precision": "fp32"},
    }
    return ft.run(recipe, out=folder / "runs" / "vehicles" / "001").path


@pytest.fixture(scope="session")
def images(run: Path) -> Path:
    """The folder of the run's images."""
    return run.parents[2] / "images"


@pytest.fixture(scope="session")
def guide(run: Path) -> dict[str, str]:
    """Command of the guide → what it printed, run where `runs` lies, in the order of the page."""
    printed, before = {}, Path.cwd()
    os.chdir(run.parents[2])
    try:
        for command in re.findall(r"^    finetune export (.+)$", GUIDE.read_text(), re.MULTILINE):
            done = CliRunner().invoke(export, shlex.split(command), catch_exceptions=False)
            assert done.exit_code == 0, done.output
            printed[command] = done.stdout
    finally:
        os.chdir(before)
    return printed


@pytest.fixture(scope="session")
def exported(run: Path, guide: dict[str, str]) -> dict[str, Path]:
    """Format → folder of its export, of the guide's command for all of them."""
    assert any(command.endswith("--out exported --json") for command in guide)
    return {name: run.parents[2] / "exported" / name for name in ("onnx", "torch", "timm")}

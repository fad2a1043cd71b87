"""Benchmarks say what they need instead of failing with a traceback."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_the_speed_benchmark_names_missing_data(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "speed.py", "T1"],
        env={**os.environ, "FINETUNE_DATA": str(tmp_path / "nowhere")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "nowhere" / "vehicles") in done.stderr
    assert "FINETUNE_DATA" in done.stderr


def imported(script: Path) -> list[tuple[str, str]]:
    """(module, name) of all that a script takes from this project, wherever in it."""
    found = [node for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, ast.ImportFrom)]
    own = {path.stem for path in BENCHMARKS.glob("*.py")}
    ours = [node for node in found if node.module and node.module.split(".")[0] in {"finetune", *own}]
    return [(str(node.module), alias.name) for node in ours for alias in node.names]


@pytest.mark.parametrize("script", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for module, name in imported(script):
        assert hasattr(importlib.import_module(module), name), f"{script.name}: {module} has no {name}"

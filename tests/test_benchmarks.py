"""Benchmarks say what they need instead of failing with a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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

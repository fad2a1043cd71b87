"""A share of `make survive` that takes about a minute: kills, signals and a failing fsync.

The commands are forked from a process that has torch already, so that they start at once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def survive(folder: Path, *rows: str) -> None:
    """Run these rows in a process of their own; skip, with the reasons, if some could not be run here."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.survive", "--quick", *rows],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder), "MPLCONFIGDIR": str(folder / "fonts")},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = [line.split(None, 1) for line in done.stdout.splitlines() if line.startswith(rows)]
    assert len(told) == len(rows), done.stdout
    if skipped := [f"{name}: {text}" for name, text in told if text.startswith("not run")]:
        pytest.skip("; ".join(skipped))


def test_C01_C02_C23_killed_at_random_and_at_system_calls(tmp_path: Path) -> None:
    survive(tmp_path, "C01-cache", "C02+C23")


def test_C08_C14_interrupted_twice_and_a_failing_fsync(tmp_path: Path) -> None:
    survive(tmp_path, "C08", "C14")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_E04_a_reader_that_has_gone_is_no_error(tmp_path: Path) -> None:
    script = f"{Path(sys.executable).with_name('finetune')} recipes | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")

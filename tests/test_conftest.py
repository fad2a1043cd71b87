"""The test suite's own promises: real data is never skipped over in silence, and no test leaves traces in the next."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import pytest
def test_photographs(real_data): pass
def test_folder_that_is_not_there(real_data): pytest.skip("no such folder")
@pytest.mark.skip(reason="today")
def test_skipped_by_mark(real_data): pass
def test_of_something_else(): pytest.skip("not on this machine")
"""


def suite(folder: Path, data: str | None) -> str:
    """The closing line of a test suite with this conftest, where FINETUNE_DATA is `data`."""
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    (folder / "test_suite.py").write_text(SUITE)
    env = {name: value for name, value in os.environ.items() if name not in ("FINETUNE_DATA", "PYTEST_ADDOPTS")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", folder, "--color=no", folder],
        env=env if data is None else {**env, "FINETUNE_DATA": data},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout.splitlines()[-1]


def test_without_real_data_its_tests_are_skipped(tmp_path: Path) -> None:
    assert "4 skipped" in suite(tmp_path, None)


def test_with_real_data_a_skipped_test_that_wants_it_fails(tmp_path: Path) -> None:
    closing = suite(tmp_path, str(tmp_path))
    assert "1 failed, 1 passed, 1 skipped, 1 error" in closing


def test_a_real_data_folder_that_is_not_there_fails(tmp_path: Path) -> None:
    assert "passed" not in suite(tmp_path, str(tmp_path / "nowhere"))


def test_the_cache_folder_is_the_tests_own_and_not_made_before_use(tmp_path: Path) -> None:
    cache = Path(os.environ["FINETUNE_CACHE"])
    assert cache.parent == tmp_path.parent
    assert not cache.exists()


@pytest.fixture(scope="module")
def torch_before() -> tuple[int, list[int]]:
    """Threads and random state before the next two tests, of which the second must not see the first."""
    import torch

    return torch.get_num_threads(), torch.get_rng_state().tolist()


def test_torch_is_changed(torch_before: tuple[int, list[int]]) -> None:
    import torch

    torch.set_num_threads(torch_before[0] + 1)
    torch.rand(3)


def test_torch_is_as_it_was(torch_before: tuple[int, list[int]]) -> None:
    import torch

    assert (torch.get_num_threads(), torch.get_rng_state().tolist()) == torch_before

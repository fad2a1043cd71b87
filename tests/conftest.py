"""What every test starts from: no network, a cache folder of its own, and torch as it was when the test began."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

DATA = "FINETUNE_DATA"

# Before any test module imports huggingface_hub, which reads it only then.
os.environ["HF_HUB_OFFLINE"] = "1"
# Tiny networks gain nothing from a second thread, and tests run side by side: set before anything imports torch.
os.environ["OMP_NUM_THREADS"] = "1"


@dataclass(frozen=True)
class Result:
    """What a command left behind: exit code, standard output, standard error."""

    rc: int
    out: str
    err: str


class Command(Protocol):
    def __call__(
        self,
        *arguments: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str | None] | None = None,
        stdin: str = "",
        timeout: float = 120,
    ) -> Result: ...


@pytest.fixture
def cli(tmp_path: Path) -> Command:
    """`cli("plan", recipe)`: the installed command as a user runs it, in `tmp_path` unless `cwd` says otherwise.

    `env` is laid over this process's environment; None takes a variable away.
    """
    command = Path(sys.executable).with_name("finetune")

    def call(
        *arguments: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str | None] | None = None,
        stdin: str = "",
        timeout: float = 120,
    ) -> Result:
        done = subprocess.run(
            [command, *map(str, arguments)],
            cwd=cwd or tmp_path,
            env={name: value for name, value in {**os.environ, **(env or {})}.items() if value is not None},
            input=stdin.encode(),
            capture_output=True,
            timeout=timeout,
        )
        return Result(done.returncode, *(s.decode("utf-8", "backslashreplace") for s in (done.stdout, done.stderr)))

    return call


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photographs that FINETUNE_DATA names; without it, the test is skipped."""
    if not os.environ.get(DATA):
        pytest.skip(f"{DATA} is not set")
    folder = Path(os.environ[DATA])
    if not folder.is_dir():
        pytest.fail(f"{DATA} is {folder}, which is no folder")
    return folder.resolve()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Where there is real data, a test that wants it and is skipped all the same has failed."""
    report = yield
    wanted = "real_data" in getattr(item, "fixturenames", ())
    if os.environ.get(DATA) and wanted and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped although {DATA} is set: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches the network or sees another's cache; the folder is only named here, beside `tmp_path`."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path.with_name(f"{tmp_path.name}-cache")))


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    """Threads and global random states outlive no test; a test without torch does not load it for this."""
    state = random.getstate()
    torch: Any = sys.modules.get("torch")
    if torch is None:
        yield
    else:
        threads, rng = torch.get_num_threads(), torch.get_rng_state()
        deterministic = torch.are_deterministic_algorithms_enabled()
        yield
        torch.set_num_threads(threads)
        torch.set_rng_state(rng)
        torch.use_deterministic_algorithms(deterministic)
    random.setstate(state)

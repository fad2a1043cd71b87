"""What the process asks of the C library and of OpenMP, and whose word counts."""

from __future__ import annotations

import os

import pytest

from finetune.cli.process import SPINS, wait_briefly


def test_threads_wait_briefly_where_nobody_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "")  # so that what is set below is taken back
    monkeypatch.delenv("GOMP_SPINCOUNT")
    wait_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == SPINS


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_what_the_user_says_of_waiting_counts(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv(name, "active")
    wait_briefly()
    other = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} - {name}
    assert os.environ[name] == "active"
    assert not other & os.environ.keys()

"""What the process asks of the C library, of OpenMP and of Python, and whose word counts."""

from __future__ import annotations

import gc
import os
import weakref

import pytest

from finetune.cli.process import SPINS, YOUNG, collect_rarely, wait_briefly


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


class Ring:
    """Garbage that only a search finds, because it refers to itself."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_is_searched_for_rarely_but_it_is() -> None:
    before = gc.get_threshold()
    try:
        gc.collect()
        collect_rarely()
        first = weakref.ref(Ring())
        for _ in range(YOUNG // 4):
            Ring()
        assert first() is not None
        for _ in range(YOUNG):
            Ring()
        assert first() is None
    finally:
        gc.set_threshold(*before)

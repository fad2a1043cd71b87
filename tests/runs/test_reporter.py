"""Long work in a pipe: named, counted now and then, never in every step."""

from __future__ import annotations

import pytest

from finetune.runs import reporter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in its only element."""
    now = [1000.0]
    monkeypatch.setattr(reporter.time, "monotonic", lambda: now[0])
    return now


def test_long_work_is_counted_now_and_then(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    count = reporter.Reporter().progress
    for done in range(0, 3001, 10):
        count("computing frozen features", done, 3000)
        clock[0] += 0.1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "computing frozen features: 200 of 3,000, about 28 s left",
        "computing frozen features: 1,200 of 3,000, about 18 s left",
        "computing frozen features: 2,200 of 3,000, about 8 s left",
    ]


def test_quick_work_is_not_told_and_work_without_a_count_is_named(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    count = reporter.Reporter().progress
    for done in range(100):
        count("reading images", done, 100)
        clock[0] += 0.01
    assert capsys.readouterr().err == ""
    count("writing the report", 0, 1)
    assert capsys.readouterr().err == "writing the report …\n"

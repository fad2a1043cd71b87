"""Axes and curves for every pair of floats, and a report that survives whatever a picture trips over."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from finetune.errors import ResourceError
from finetune.evaluate.metrics import compute_metrics
from finetune.report import charts, files, gradients, page, plots
from finetune.report.axes import LARGEST, Scale, tick_labels, ticks
from finetune.report.learning import learning

ANY = st.floats(allow_nan=True, allow_infinity=True)
EPS = 2.220446049250313e-16


@settings(deadline=None, max_examples=200)
@given(ANY, ANY)
@example(EPS, EPS)
@example(0.0, 5e-324)
@example(5e-324, 5e-324)
@example(1.0, math.nextafter(1.0, 2))
@example(-1.7e308, 1.7e308)
@example(math.nan, math.inf)
@example(-0.0, 0.0)
def test_ticks_cover_every_pair_of_floats(one: float, other: float) -> None:
    marks = ticks(one, other)
    assert 2 <= len(marks) <= 12
    assert all(map(math.isfinite, marks))
    assert all(a < b for a, b in itertools.pairwise(marks))
    for value in (one, other):
        if math.isfinite(value) and 1e-290 < abs(value) < LARGEST:
            slack = 1e-9 * (marks[-1] - marks[0])
            assert marks[0] - slack <= value <= marks[-1] + slack
            assert 0 <= Scale(marks[0], marks[-1], 0, 100)(value) <= 100
    labels = tick_labels(marks)
    assert len(set(labels)) == len(labels), "labels that cannot be told apart"
    assert all(
        float(label) == pytest.approx(mark, rel=1e-6, abs=1e-6 * (marks[1] - marks[0]))
        for label, mark in zip(labels, marks, strict=True)
    )
    assert max(map(len, labels)) <= 16


@pytest.mark.parametrize(("low", "high", "expected"), [(0, 1, [0, 0.5, 1]), (0.2, 1.7, [0, 0.5, 1, 1.5, 2])])
def test_ordinary_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high, 3 if high == 1 else 5) == expected


def rows(values: list[tuple[float | None, ...]]) -> list[dict[str, Any]]:
    keys = ("train_loss", "val_loss", "val_accuracy", "val_macro_f1", "grad:stem", "grad:head")
    return [
        {"epoch": epoch, "phase": epoch // 3, "lr": 1e-3, **dict(zip(keys, row, strict=True))}
        for epoch, row in enumerate(values)
    ]


CURVES = st.lists(st.tuples(*[st.none() | ANY | st.sampled_from([0.0, EPS, 1.0, 1e308])] * 6), min_size=1, max_size=6)


@settings(deadline=None, max_examples=30)
@given(CURVES)
@example([(EPS, EPS, 1.0, 1.0, 0.0, 0.0)] * 3)
@example([(1e308, -1e308, 1.0, 1.0, 5e-324, 1e308)] * 2)
def test_curves_of_every_kind_are_drawn(values: list[tuple[float | None, ...]]) -> None:
    history = rows(values)
    labels, chances = np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]])
    metrics = compute_metrics(labels, chances, ["a", "b"], intervals=False)
    context = page.Context(
        "test", False, metrics.as_dict("test"), metrics.confusion, (["x", "y"], labels, chances), history
    )
    shown = learning(context.history, context.plan, context.run)
    text = str(shown["loss"]) + str(shown["scores"]) + "".join(str(one["picture"]) for one in shown["gradients"])
    assert "nan" not in text
    assert "inf" not in text
    gradients.comparison(history)


@pytest.mark.parametrize("value", [EPS, 5e-324, 1.0, 1e308, math.inf, math.nan, None])
def test_the_png_of_the_curves_is_drawn(value: float | None) -> None:
    png = plots.curves_png(rows([(value,) * 6, (value,) * 6, (1e-3,) * 6]), [1])
    assert png.startswith(b"\x89PNG")


def report(folder: Path) -> list[str]:
    labels, chances = np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]])
    return files.write_report(
        folder,
        split="test",
        selected_on=False,
        metrics=compute_metrics(labels, chances, ["a", "b"]),
        predictions=(["x", "y"], labels, chances),
        classes=["a", "b"],
        history=rows([(0.5,) * 6, (0.4,) * 6]),
    )


@pytest.mark.parametrize(
    ("module", "name", "missing"),
    [
        (plots, "confusion_png", "confusion.png"),
        (plots, "curves_png", "curves.png"),
        (plots, "calibration_png", "calibration.png"),
        (files, "_prediction_rows", "predictions.csv"),
        (files, "render", "report.html"),
    ],
)
def test_what_cannot_be_made_is_said_and_the_rest_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, missing: str
) -> None:
    assert report(tmp_path / "whole") == []
    whole = {path.name for path in (tmp_path / "whole").iterdir()}

    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("float division by zero")

    monkeypatch.setattr(module, name, broken)
    faults = report(tmp_path / "partly")
    assert len(faults) == 1
    assert faults[0].startswith(f"{missing} is missing: ZeroDivisionError")
    assert {path.name for path in (tmp_path / "partly").iterdir()} == whole - {missing}
    if missing != "report.html":
        assert "ZeroDivisionError" in (tmp_path / "partly" / "report.html").read_text()


def test_a_full_disk_is_no_fault_of_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise ResourceError("disk full")

    monkeypatch.setattr(files, "write_csv", full)
    with pytest.raises(ResourceError):
        report(tmp_path)


def test_tiny_losses_have_labels_with_exponents() -> None:
    drawn = charts.curves("Loss", [charts.Line("a", [(0, EPS), (1, EPS)])], [], 1)
    assert "e-16" in drawn

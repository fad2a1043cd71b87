"""C05: stopped after step K, for every K of a run, and gone on with: the bits of the run that nobody stopped."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from finetune.errors import Stopped
from finetune.runs.reporter import Reporter
from finetune.story.resume import resume
from finetune.story.run import run
from tests import makers

STEPS_MOST = 6
"""Of the longest of these runs: 12 images in batches of 4, two epochs."""

trains = st.fixed_dictionaries(
    {
        "every": st.sampled_from([None, 1, 2, 3]),
        "accumulate": st.sampled_from([1, 2]),
        "workers": st.sampled_from([0, 1, 3]),
        "cache": st.sampled_from(["off", "auto", {"views": 2}]),
        "ema": st.sampled_from([None, 0.9]),
        "optimizer": st.sampled_from(["adamw", "sgd"]),
        "keep": st.sampled_from([1, 2]),
    }
)


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages and pictures take longer than these runs and have tests of their own."""
    monkeypatch.setattr("finetune.story.run.publish_report", lambda *_: [])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return makers.class_folders(tmp_path_factory.mktemp("anywhere") / "images", {"ant": 6, "bee": 6, "cat": 6})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One new folder after another."""
    base = tmp_path_factory.mktemp("runs")
    return (base / str(number) for number in itertools.count())


def recipe(images: Path, drawn: dict[str, Any]) -> dict[str, Any]:
    kept = ("accumulate", "cache", "ema", "optimizer")
    return {
        "name": "anywhere",
        "data": {"folder": str(images), "split": {"val": 0.34, "test": 0.0}, "workers": drawn["workers"]},
        "model": {
            "backbone": "timm/test_resnet",
            "weights": "none",
            "weights_missing": "allow",
            "preprocess": {"size": 32},
            "unfreeze": {"head": 0, "last:1": 1},
        },
        "train": {
            **{name: drawn[name] for name in kept},
            **{"epochs": 2, "batch_size": 4, "batchnorm": "update", "precision": "fp32", "lr": 0.01},
            "checkpoint": {"every_steps": drawn["every"], "keep": drawn["keep"]},
        },
    }


class StopAfter:
    """A reporter that asks to stop once `steps` steps are done."""

    def __init__(self, steps: int | None) -> None:
        self.done, self.steps = 0, steps

    def reporter(self) -> Reporter:
        return Reporter(say=lambda text: None, step=self.step, stop=self.stop)

    def step(self, *_: object) -> None:
        self.done += 1

    def stop(self) -> int | None:
        return signal.SIGTERM if self.steps is not None and self.done >= self.steps else None


def outcome(out: Path) -> tuple[str, list[list[str]]]:
    """The final weights, and what each epoch learned (without its times)."""
    lines = (out / "history.csv").read_text().splitlines()
    columns = lines[0].split(",")
    timed = {columns.index("seconds"), columns.index("images_per_second")}
    rows = [[cell for i, cell in enumerate(line.split(",")) if i not in timed] for line in lines[1:]]
    return str(json.loads((out / "run.json").read_text())["weights_sha256"]), rows


@settings(max_examples=2, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@example(
    {"every": 2, "accumulate": 2, "workers": 3, "cache": "off", "ema": 0.9, "optimizer": "adamw", "keep": 1},
)
@given(drawn=trains)
def test_c05_stopped_after_any_step_a_run_ends_in_the_same_bits(
    images: Path, folders: Iterator[Path], drawn: dict[str, Any]
) -> None:
    given_recipe, whole, counter = recipe(images, drawn), next(folders), StopAfter(None)
    run(given_recipe, out=whole, reporter=counter.reporter())
    assert 4 <= counter.done <= STEPS_MOST
    for steps in range(1, counter.done + 1):
        out, stopper = next(folders), StopAfter(steps)
        with contextlib.suppress(Stopped):
            run(given_recipe, out=out, reporter=stopper.reporter())
            raise AssertionError(f"did not stop after step {steps}")
        assert stopper.done == steps
        resume(out, reporter=StopAfter(None).reporter())
        assert outcome(out) == outcome(whole), f"stopped after step {steps}"


def test_c28_the_number_of_workers_changes_nothing(images: Path, folders: Iterator[Path]) -> None:
    plain = {"every": 1, "accumulate": 1, "cache": "off", "ema": None, "optimizer": "sgd", "keep": 2}
    found = []
    for workers in (0, 1, 4):
        out = next(folders)
        run(recipe(images, {**plain, "workers": workers}), out=out, reporter=StopAfter(None).reporter())
        found.append(outcome(out))
    assert found[0] == found[1] == found[2]

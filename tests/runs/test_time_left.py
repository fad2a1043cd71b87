"""The time left of a whole run: what was expected of later stages, and the pace of the present one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.runs.reporter import PlainCount, Reporter
from finetune.runs.time_left import FEATURES, TRAINING, TimeLeft, rounded

STAGES = {"features": 10.0, TRAINING: 100.0, "evaluating": 5.0, "report": 5.0}


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def begun(clock: Clock, epochs: int = 4) -> TimeLeft:
    left = TimeLeft(clock)
    left.expect(STAGES, [1.0] * epochs)
    return left


def test_before_anything_is_seen_it_is_what_was_expected() -> None:
    assert begun(Clock()).text() == "about 2 min to the end"
    assert TimeLeft().text() == ""


@given(st.floats(0.1, 1000), st.integers(1, 9), st.integers(1, 50))
def test_an_even_pace_is_carried_on(seconds_per_step: float, epochs: int, steps: int) -> None:
    clock = Clock()
    left = begun(clock, epochs)
    for done in range(epochs * steps + 1):
        clock.now = done * seconds_per_step
        left.in_training(*divmod(done, steps), steps)
        if done >= 0.02 * epochs * steps + 1:
            rest = (epochs * steps - done) * seconds_per_step
            assert sum(left.remaining.values()) == pytest.approx(rest + 10.0, rel=1e-6)


def test_what_did_not_come_is_not_waited_for_and_what_comes_again_is() -> None:
    clock = Clock()
    left = begun(clock)
    left.in_training(0, 0, 10)  # no features were computed
    assert left.remaining["features"] == 0.0
    clock.now = 40.0
    left.in_training(2, 0, 10)
    assert left.remaining[TRAINING] == pytest.approx(40.0)
    left.at("features", 0.0)  # of the second phase
    clock.now = 45.0
    left.at("features", 0.5)
    assert sum(left.remaining.values()) == pytest.approx(5.0 + 40.0 + 10.0)
    left.at("report", 0.0)
    assert sum(left.remaining.values()) == pytest.approx(5.0)


def test_features_that_come_faster_than_expected_correct_what_follows_until_it_has_a_pace_of_its_own() -> None:
    clock = Clock()
    left = TimeLeft(clock)
    left.expect({FEATURES: 40.0, TRAINING: 400.0, "evaluating": 8.0, "report": 5.0}, [1.0] * 4)
    left.at(FEATURES, 0.0)
    clock.now = 5.0
    left.at(FEATURES, 0.5)
    assert left.remaining == pytest.approx({FEATURES: 5.0, TRAINING: 100.0, "evaluating": 2.0, "report": 5.0})
    left.in_training(0, 0, 10)
    clock.now = 25.0
    left.in_training(1, 0, 10)
    left.at(FEATURES, 0.0)  # of the second phase
    clock.now = 65.0
    left.at(FEATURES, 1.0 - 1e-9)
    assert left.remaining[TRAINING] == pytest.approx(60.0)


def test_the_epoch_in_which_the_head_is_solved_tells_nothing_of_those_that_train() -> None:
    clock = Clock()
    left = TimeLeft(clock)
    left.expect(STAGES, [0.0, 1.0, 1.0])
    left.in_training(0, 0, 1)
    clock.now = 30.0
    left.in_training(1, 0, 10)
    assert left.remaining[TRAINING] == 100.0
    clock.now = 40.0
    left.in_training(2, 0, 10)
    assert left.remaining[TRAINING] == pytest.approx(10.0)
    left.expect(STAGES, [0.0])  # nothing else: a run that only solves
    left.in_training(1, 0, 1)
    assert left.remaining[TRAINING] == 0.0


@pytest.mark.parametrize(("seconds", "text"), [(0, "5 s"), (17, "15 s"), (89, "90 s"), (150, "2 min"), (9000, "2.5 h")])
def test_it_is_said_as_people_say_it(seconds: float, text: str) -> None:
    assert rounded(seconds) == text


def test_lines_in_a_pipe_tell_the_time_of_the_whole_run() -> None:
    said: list[str] = []
    reporter = Reporter(say=said.append)
    assert isinstance(reporter.progress, PlainCount)
    assert reporter.progress.left is reporter.left
    reporter.left.expect(STAGES, [1.0, 1.0])
    figures = dict.fromkeys(("lr", "train_loss", "val_loss", "val_accuracy", "val_macro_f1", "images_per_second"), 1.0)
    for epoch in range(2):
        reporter.hooks()["tick"](epoch, 1, 2, 1.0, 1.0)
        reporter.epoch({"epoch": epoch, "phase": 0, **figures}, 2)
    assert "to the end" in said[0]
    assert "to the end" not in said[1]

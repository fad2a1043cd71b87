"""A short share of the fuzzing, and all that it has once found; the whole is `make fuzz`."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.fuzz.__main__ import fuzz
from tests.fuzz.mutate import mutated
from tests.fuzz.targets import RECIPES, TARGETS, weight_seeds

CORPUS = Path(__file__).with_name("corpus")
KEPT = sorted(path for path in CORPUS.glob("*/*") if path.is_file())


@pytest.mark.parametrize("name", TARGETS)
def test_a_short_share(name: str) -> None:
    target = TARGETS[name]()
    fuzz(target, 1, 100)
    assert sum(target.counts.values()) >= 100
    assert len(target.counts) == 2, "some inputs are taken, some refused, or the fuzzing reaches nothing"


@pytest.mark.parametrize("name", ["recipes", "weights"])
def test_what_the_changes_start_from_is_good(name: str) -> None:
    target = TARGETS[name]()
    for content in RECIPES if name == "recipes" else weight_seeds():
        target(content)
    assert set(target.counts) == {"accepted"}


@pytest.mark.parametrize("path", KEPT, ids=[f"{path.parent.name}/{path.name}" for path in KEPT])
def test_what_was_once_found(path: Path) -> None:
    TARGETS[path.parent.name]()(path.read_bytes())


def test_a_find_is_reported_and_made_small() -> None:
    target = TARGETS["recipes"]()

    def attempt(content: bytes, folder: Path) -> None:
        if b"seed" in content:
            raise KeyError("a bug")

    target.attempt = attempt
    with pytest.raises(KeyError):
        fuzz(target, 0, 500)
    assert b"seed" in target.last


@settings(max_examples=100, deadline=None, database=None)
@given(mutated([b"abcdefgh", b""], [b"word"]))
def test_changes_never_fail(content: bytes) -> None:
    assert isinstance(content, bytes)

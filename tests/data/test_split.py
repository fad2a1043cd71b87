"""The split: by content, stratified, seeded, and a pure function."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.split import split
from finetune.errors import DataError, UsageError

Counts = Mapping[str, int]


def table_of(counts: Counts) -> pd.DataFrame:
    rows = [
        (name, hashlib.sha256(f"{name!a} {number}".encode()).hexdigest())
        for name, count in counts.items()
        for number in range(count)
    ]
    table = pd.DataFrame(rows, columns=["class", "sha256"], dtype=object)
    return table.assign(path=[f"{index}.jpg" for index in range(len(table))])


def by_content(table: pd.DataFrame, **options: float) -> dict[str, str]:
    got = split(table, **{"val": 0.15, "test": 0.15, "seed": 0, **options})
    return dict(zip(table["sha256"], got, strict=True))


def test_fractions_hold_in_every_class() -> None:
    table = table_of({"a": 100, "b": 60, "c": 20})
    got = split(table, val=0.2, test=0.1, seed=0)
    counts = pd.crosstab(table["class"], got)
    assert counts.loc["a"].to_dict() == {"train": 70, "val": 20, "test": 10}
    assert counts.loc["b"].to_dict() == {"train": 42, "val": 12, "test": 6}
    assert counts.loc["c"].to_dict() == {"train": 14, "val": 4, "test": 2}
    assert got.index.equals(table.index)


@given(
    counts=st.lists(st.integers(2, 12), min_size=1, max_size=4),
    val=st.floats(0.01, 0.6),
    test=st.floats(0, 0.39),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_every_class_is_in_every_split(counts: list[int], val: float, test: float, seed: int) -> None:
    table = table_of({f"class {index}": count for index, count in enumerate(counts)})
    got = split(table, val, test, seed)
    for name, count in zip(sorted(set(table["class"])), counts, strict=True):
        wanted = {"train", "val"} | ({"test"} if test > 0 and count >= 3 else set())
        assert set(got[table["class"] == name]) == wanted


def test_order_and_names_of_files_change_nothing() -> None:
    table = table_of({"a": 30, "b": 20})
    other = table.sample(frac=1, random_state=1).assign(path="x")
    assert by_content(table) == by_content(other)


def test_the_split_is_pinned() -> None:
    got = by_content(table_of({"a": 6}))
    assert list(got.values()) == ["train", "test", "train", "val", "train", "train"]


def test_another_seed_gives_another_split() -> None:
    table = table_of({"a": 30, "b": 20})
    assert by_content(table, seed=0) != by_content(table, seed=1)


def test_duplicates_never_straddle() -> None:
    table = table_of({"a": 30, "b": 30})
    table.loc[table["class"] == "b", "sha256"] = [*table["sha256"][:10], *table["sha256"][40:60]]  # shared with a
    table = pd.concat([table, table[::3]], ignore_index=True)
    for seed in range(5):
        got = split(table, val=0.3, test=0.2, seed=seed)
        assert got.groupby(table["sha256"]).nunique().max() == 1
        assert set(got[table["class"] == "b"]) == {"train", "val", "test"}


def test_classes_that_cannot_be_split_are_all_named() -> None:
    table = table_of({"b": 1, "c": 1})
    table = pd.concat([table, table[table["class"] == "b"]], ignore_index=True)  # a copy is no second image
    with pytest.raises(DataError) as caught:
        split(table, 0.2, 0.2, 0)
    assert [line[:9] for line in caught.value.problems] == ["class 'b'", "class 'c'"]


@given(st.integers(2, 9), st.integers(1, 4), st.integers(0, 5), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_class_with_one_image_is_learned_from(many: int, copies: int, seed: int, shared: bool) -> None:
    table = table_of({"many": many, "lone": 1})
    lone = table[table["class"] == "lone"]
    table = pd.concat([table, *[lone] * (copies - 1), *([lone.assign(**{"class": "many"})] if shared else [])])
    table = table.reset_index(drop=True)
    got = split(table, 0.2, 0.2, seed)
    assert set(got[table["class"] == "lone"]) == {"train"}
    assert {"train", "val"} <= set(got[table["class"] == "many"])


@pytest.mark.parametrize(("val", "test"), [(0, 0.2), (0.5, 0.5), (-0.1, 0), (0.2, -0.1), (float("nan"), 0)])
def test_fractions_that_make_no_split(val: float, test: float) -> None:
    with pytest.raises(UsageError, match=r"data\.split"):
        split(table_of({"a": 10}), val, test, 0)


def test_names_that_are_not_utf8() -> None:
    table = table_of({"caf\udce9": 5, "b": 5})
    assert set(split(table, 0.2, 0.2, 0)) == {"train", "val", "test"}

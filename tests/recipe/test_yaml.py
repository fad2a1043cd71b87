"""The strict YAML reader: what is a number, what is text, what is refused."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.errors import UsageError
from finetune.recipe import yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("-.inf", -math.inf),
        ("0", 0),
        ("+7", 7),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
    ],
)
def test_plain_scalars_have_the_types_of_yaml_1_2(text: str, value: object) -> None:
    found = yaml.parse(f"a: {text}", "x")["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text", ["no", "NO", "on", "off", "yes", "y", "08", "010", "-07", "12:30", "0x1f", "1_000", "2001-01-01", "1e", "="]
)
def test_what_only_yaml_1_1_takes_for_something_else_is_text(text: str) -> None:
    assert yaml.parse(f"[{text}]", "x") == [text]


def test_nan_is_a_number_and_quotes_make_text() -> None:
    assert math.isnan(yaml.parse(".nan", "x"))
    assert yaml.parse("['.nan', \"1\", '']", "x") == [".nan", "1", ""]


def test_keys_are_text_as_written() -> None:
    assert yaml.parse("{last:2: 3, 1: a, no: b, '<<': c, layer4.1.*: 0}", "x") == {
        "last:2": 3,
        "1": "a",
        "no": "b",
        "<<": "c",
        "layer4.1.*": 0,
    }


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a: 1\nb: {c: 1, c: 2}", 2, "b.c: duplicate key"),
        ("a: 1\n\na: 2", 3, "first on line 1"),
        ("a: &x 1", 1, "anchor"),
        ("b: 2\na: *x", 2, "alias"),
        ("a: {<<: {b: 1}}", 1, "merge key"),
        ("a: !!python/object/apply:os.system [touch canary]", 1, "tag"),
        ("a: !!str 1", 1, "tag"),
        ("a: 1\n? [b]\n: 2", 2, "key that is itself a list"),
        ("a: 1\n---\nb: 2", 2, "second document"),
        ("a:\n  b: [1", 2, "not valid YAML"),
        ("a: 1\nb: *", 2, "not valid YAML"),
        ("a: 1\n\x01", 2, "not text"),
        ("[" * 10_000, 1, "deeper than 20"),
        ("- " * 10_000, 1, "deeper than 20"),
    ],
)
def test_refusals_name_the_line(text: str, line: int, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        yaml.parse(text, "recipe.yaml")
    assert caught.value.problems[0].startswith(f"recipe.yaml:{line}: ")
    assert what in caught.value.problems[0]
    assert caught.value.remedy


def test_all_duplicates_are_told_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        yaml.parse("a: 1\nb: {x: 1, x: 2}\na: 3", "f")
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("text", ["a" * 2_000_000, "[" + "1," * 400_000 + "]", "k: 1\n" * 190_000])
def test_bombs_are_refused_quickly(text: str) -> None:
    began = time.process_time()
    with pytest.raises(UsageError):
        yaml.parse(text, "bomb")
    assert time.process_time() - began < 5


_texts = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(["no", "08", "1e3", "~", ".inf", "* a"])
_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _texts
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3), max_leaves=8
)


@settings(max_examples=150, deadline=None)
@given(_values)
def test_what_is_dumped_is_parsed_back_equal_with_the_same_types(value: Any) -> None:
    found = yaml.parse(yaml.dump(value), "x")
    assert found == value
    assert repr(found) == repr(value)
    assert "\n" not in yaml.inline(value)


def test_a_list_used_twice_is_written_twice() -> None:
    shared = [1, 2]
    assert yaml.parse(yaml.dump({"a": shared, "b": shared}), "x") == {"a": [1, 2], "b": [1, 2]}


def test_text_that_other_readers_would_mistake_is_quoted() -> None:
    assert yaml.dump({"classes": ["no", "1e3", "12:30"]}) == "classes:\n- 'no'\n- '1e3'\n- '12:30'\n"

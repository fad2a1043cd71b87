"""pydantic's errors in plain words: one line a problem, with the line of the file and the key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from finetune.errors import did_you_mean
from finetune.files import visible
from finetune.recipe.keys import nearest
from finetune.recipe.yaml import Mark, Place, dotted, inline

MOST = 100
"""Problems that are told one by one; a person mends these first."""

OVERRIDE = "-o"
"""Where a value came from that the command line gave."""

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "string_too_short": "text",
    "dict_type": "keys below it (a mapping)",
    "model_type": "keys below it (a mapping)",
    "model_attributes_type": "keys below it (a mapping)",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number from {ge:g} up",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number up to {le:g}",
}
"""Types of pydantic's errors (https://docs.pydantic.dev/latest/errors/validation_errors/) to what was expected."""


def lines(error: ValidationError, marks: Mapping[Place, Mark], source: str) -> list[str]:
    """The first problems of a recipe, in the order of the schema.

    Args:
        error: what validation raised.
        marks: where each value came from; the nearest one above serves where there is none.
        source: name of the recipe, for what is nowhere.
    """
    return [_line(detail, marks, source) for detail in error.errors(include_url=False)[:MOST]]


def few(problems: list[str], total: int) -> list[str]:
    """The first problems, and how many more there are."""
    return [*problems[:MOST], *([f"... and {total - MOST:,} more"] if total > MOST else [])]


def at(place: Place, marks: Mapping[Place, Mark], source: str) -> str:
    """The beginning of a problem's line: `vehicles.yaml:7: train.lr` or `-o train.lr`."""
    mark = next((marks[place[:n]] for n in range(len(place), -1, -1) if place[:n] in marks), Mark(source))
    return f"{mark.where}{' ' if mark.where == OVERRIDE else ': '}{dotted(place)}"


def shown(value: Any) -> str:
    """A value as a message names it: 'fast', 3, true, nothing, a list."""
    if value is None:
        return "nothing"
    if isinstance(value, (Mapping, list, tuple)):
        return "a mapping" if isinstance(value, Mapping) else "a list"
    plain = isinstance(value, (bool, int, float))
    text = inline(value) if plain else visible(repr(value) if isinstance(value, str) else type(value).__name__)
    return text if len(text) <= 80 else text[:77] + "..."


def _is_key(part: str | int) -> bool:
    """Not so the name of a branch of a union, in angle brackets, and [key], which says that the key is wrong."""
    return not str(part).startswith("<") and part != "[key]"


def _line(detail: ErrorDetails, marks: Mapping[Place, Mark], source: str) -> str:
    above, last = detail["loc"][:-1], detail["loc"][-1:]
    unknown = detail["type"] == "extra_forbidden"  # then the last part is a key, whatever the user has called it
    place = (*filter(_is_key, above), *(last if unknown else filter(_is_key, last)))
    if detail["type"] == "missing":
        return f"{source}: {dotted(place)}: missing"
    if unknown:
        return f"{at(place, marks, source)}: unknown key{visible(nearest(place))}"
    return f"{at(place, marks, source)}: {_words(detail)}"


def _words(detail: ErrorDetails) -> str:
    found, context = detail["input"], detail.get("ctx", {})
    if detail["type"] == "literal_error":
        choices = str(context["expected"]).replace("'", "")
        near = did_you_mean(found, choices.replace(" or ", ", ").split(", ")) if isinstance(found, str) else ""
        return f"expected {choices}, found {shown(found)}{near}"
    if detail["type"] == "value_error":
        message = visible(str(context["error"]))
        return f"{message}, found {shown(found)}" if message.startswith("expected") else message
    if detail["type"] in _EXPECTED:
        return f"expected {_EXPECTED[detail['type']].format(**context)}, found {shown(found)}"
    return visible(detail["msg"])

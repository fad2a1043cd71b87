"""The keys of a recipe as the schema has them: which there are, which are text, which is nearest to a wrong one."""

from __future__ import annotations

import difflib
from functools import cache
from typing import Any, Literal, get_args, get_origin

from finetune.recipe.schema import Recipe
from finetune.recipe.values import Section
from finetune.recipe.yaml import Place

Kind = Literal["section", "mapping", "text", "other"]


@cache
def known() -> dict[Place, Kind]:
    """Every key with its kind: a section has keys below it, a mapping has free ones, text keeps what was written."""
    return dict(_walk(Recipe, ()))


def place_of(key: str) -> Place | None:
    """A dotted key as a place, or None if there is no such key; below a mapping the rest is one key, dots and all."""
    parts = tuple(key.split("."))
    for length in range(1, len(parts) + 1):
        kind = known().get(parts[:length])
        if kind is None:
            return None
        if kind == "mapping" and length < len(parts):
            return (*parts[:length], ".".join(parts[length:]))
    return parts


def is_text(place: Place) -> bool:
    """Whether a scalar there is text whatever it looks like; an item of a list of texts is."""
    while place and isinstance(place[-1], int):
        place = place[:-1]
    return known().get(place) == "text"


def nearest(place: Place) -> str:
    """`` (did you mean 'folder'?)``: the same key at another level, else the nearest at this level, else elsewhere.

    A key of this level is given by its last name, any other in full.
    """
    parent, name = place[:-1], str(place[-1])
    others = {".".join(map(str, key)): str(key[-1]) for key in known() if key[:-1] != parent}
    siblings = [str(key[-1]) for key in known() if key[:-1] == parent]
    elsewhere = [key for key, last in others.items() if last == name]
    if not elsewhere and not (elsewhere := difflib.get_close_matches(name, siblings, n=3)):
        near = difflib.get_close_matches(name, set(others.values()), n=1, cutoff=0.75)
        elsewhere = [key for key, last in others.items() if last in near]
    full = ".".join(map(str, place))
    elsewhere.sort(key=lambda key: -difflib.SequenceMatcher(None, key, full).ratio())
    return f" (did you mean {' or '.join(repr(key) for key in elsewhere[:3])}?)" if elsewhere else ""


def _walk(section: type[Section], above: Place) -> list[tuple[Place, Kind]]:
    found: list[tuple[Place, Kind]] = []
    for name, field in section.model_fields.items():
        below = _section(field.annotation)
        kind: Kind = "section" if below else _kind(field.annotation)
        found.append(((*above, name), kind))
        found += _walk(below, (*above, name)) if below else []
    return found


def _section(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section(part))), None)


def _kind(annotation: Any) -> Kind:
    if annotation is str:
        return "text"
    if get_origin(annotation) in (dict, Literal):
        return "mapping" if get_origin(annotation) is dict else "other"
    kinds = [_kind(part) for part in get_args(annotation)]
    return next((kind for kind in kinds if kind != "other"), "other")

"""Strict YAML in the spirit of version 1.2: text and numbers, nothing that points, repeats or runs.

Read from the event stream of PyYAML and not by its constructors, so no tag can make an object, no alias can multiply
and the depth is known before anything is built. Plain scalars follow the core schema of YAML 1.2
(https://yaml.org/spec/1.2.2/#103-core-schema) but for one thing: a number with a leading zero (08, 010) stays text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from finetune.errors import UsageError
from finetune.files import visible

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_VALUES = 50_000
"""Bounds the time: PyYAML's own parser takes about 50 µs a value."""

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,999})")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {"": None, "~": None}
_WORDS |= {spelling: None for spelling in ("null", "Null", "NULL")}
_WORDS |= {spelling: True for spelling in ("true", "True", "TRUE")}
_WORDS |= {spelling: False for spelling in ("false", "False", "FALSE")}
_WORDS |= {spelling: math.nan for spelling in (".nan", ".NaN", ".NAN")}
_WORDS |= {sign + spelling: math.inf for sign in ("", "+") for spelling in (".inf", ".Inf", ".INF")}
_WORDS |= {"-" + spelling: -math.inf for spelling in (".inf", ".Inf", ".INF")}

Place = tuple[str | int, ...]
"""Where a value lies: keys and list positions from the top."""


@dataclass(frozen=True)
class Mark:
    """What a value was in the text: `where` is "FILE:LINE", `text` the scalar as written (None for the others)."""

    where: str
    text: str | None = None


@dataclass(frozen=True)
class Document:
    """A text read: its value, the mark of each value in it, and the duplicate keys as lines of problems."""

    value: Any
    marks: dict[Place, Mark]
    problems: list[str]


def parse(text: str, source: str) -> Any:
    """The value of one YAML document: dict (keys always text), list, str, int, float, bool or None.

    Args:
        text: the document.
        source: its name in messages.

    Raises:
        UsageError: not YAML, or outside the strict part of it; each problem names `source:line`.
    """
    document = read(text, source)
    if document.problems:
        raise UsageError(document.problems, "keep one of each")
    return document.value


def read(text: str, source: str) -> Document:
    """As `parse`, but with the marks, and with duplicate keys as problems (the first of them has the say).

    Raises:
        UsageError: not YAML, an alias, anchor, merge key or tag, too large or too deep.
    """
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise UsageError(f"{source}: larger than {MAX_BYTES:,} bytes", "this is no recipe: give the right file")
    try:
        return _Reader(source, yaml.parse(text.removeprefix("\ufeff"), Loader=yaml.SafeLoader)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        signs = "alias" in reason or "anchor" in reason or "token" in reason
        remedy = "text that begins with * & % @ or ` needs quotes" if signs else "correct that line"
        if "\\t" in reason:
            remedy = "YAML has no tabs: indent with spaces"
        raise UsageError(f"{source}{line}: not valid YAML: {visible(reason)}", remedy) from error
    except yaml.reader.ReaderError as error:
        line = f":{text.count(chr(10), 0, error.position) + 1}"
        raise UsageError(f"{source}{line}: not valid YAML: a character that is not text", "remove it") from error


def scalar(text: str) -> Any:
    """The value of a plain (unquoted) scalar: None, bool, int, float, or the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def dotted(place: Place) -> str:
    """A place as people write it: train.lr, data.classes[2]."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in place]
    return visible("".join(parts).removeprefix("."))


@dataclass
class _Reader:
    source: str
    events: Iterator[yaml.Event]
    marks: dict[Place, Mark] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    values: int = 0

    def document(self) -> Document:
        value = None
        started = False
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if started:
                    raise self.refuse(event, "a second document begins here", "keep one")
                started = True
                value = self.value(next(self.events), ())
        return Document(value, self.marks, self.problems)

    def value(self, event: yaml.Event, place: Place) -> Any:
        self.check(event, place)
        text = str(event.value) if isinstance(event, yaml.ScalarEvent) else None
        self.marks[place] = Mark(f"{self.source}:{_line(event)}", text)
        if isinstance(event, yaml.ScalarEvent):
            return text if event.style else scalar(str(event.value))
        return self.mapping(place) if isinstance(event, yaml.MappingStartEvent) else self.sequence(place)

    def mapping(self, place: Place) -> dict[str, Any]:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.key(event, place)
            if key in values:
                here = f"{self.source}:{_line(event)}: {dotted((*place, key))}"
                self.problems.append(f"{here}: duplicate key (first on line {lines[key]})")
                kept, self.marks = self.marks, {}
                self.value(next(self.events), (*place, key))
                self.marks = kept
                continue
            values[key], lines[key] = self.value(next(self.events), (*place, key)), _line(event)
            self.marks[*place, key] = Mark(f"{self.source}:{_line(event)}", self.marks[*place, key].text)
        return values

    def key(self, event: yaml.Event, place: Place) -> str:
        self.check(event, place)
        if not isinstance(event, yaml.ScalarEvent):
            raise self.refuse(event, "a key that is itself a list or a mapping", "a key is text: quote it if need be")
        if (event.value, event.style) == ("<<", None):
            raise self.refuse(event, "a merge key (<<)", "write the keys out")
        return str(event.value)

    def sequence(self, place: Place) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.value(event, (*place, len(items))))
        return items

    def check(self, event: yaml.Event, place: Place) -> None:
        self.values += 1
        if isinstance(event, yaml.AliasEvent):
            remedy = "write the value out; text that begins with * needs quotes"
            raise self.refuse(event, f"an alias (*{event.anchor})", remedy)
        for attribute, what, sign in (("anchor", "an anchor", "&"), ("tag", "a tag", "!")):
            if (found := getattr(event, attribute, None)) is not None:
                remedy = f"remove it; text that begins with {sign} needs quotes"
                raise self.refuse(event, f"{what} ({found})", remedy)
        if len(place) > MAX_DEPTH:
            raise self.refuse(event, f"deeper than {MAX_DEPTH} levels", "flatten it")
        if self.values > MAX_VALUES:
            raise self.refuse(event, f"more than {MAX_VALUES:,} values", "this is no recipe: give the right file")

    def refuse(self, event: yaml.Event, what: str, remedy: str) -> UsageError:
        return UsageError(f"{self.source}:{_line(event)}: not allowed: {visible(what)}", remedy)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


# --- writing ---------------------------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or the rules above would take for something else; never writes an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Text with escapes where a reader could take a character for a line end (U+0085, U+2028) or drop it."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _text_node)
_STYLE: dict[str, Any] = {"Dumper": _Dumper, "sort_keys": False, "allow_unicode": True}
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def dump(value: Any) -> str:
    """Block YAML of dicts (with text keys), lists, tuples and scalars; `parse` gives an equal value back."""
    return str(yaml.dump(value, **_STYLE, width=120))


def inline(value: Any) -> str:
    """The value on one line, as in `{head: 0, all: 5}`."""
    text = str(yaml.dump(value, **_STYLE, width=math.inf, default_flow_style=True))
    return visible(text.removesuffix("\n").removesuffix("\n..."))

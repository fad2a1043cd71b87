"""Conditions on what a store knows of its images: `class=ship`, `confidence<0.5`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

TEXTS = ("path", "class", "split", "sha256", "prediction")
NUMBERS = ("confidence",)
COLUMNS = (*TEXTS, *NUMBERS)
"""What can be asked for."""

_SHAPE = re.compile(r"\s*(?P<column>[^=!<>]*?)\s*(?P<sign>!=|<=|>=|=|<|>)(?P<value>.*)", re.DOTALL)
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}
_REMEDY = "write COLUMN=VALUE or COLUMN!=VALUE, for example class=ship; confidence takes <, >, <= and >= too"


@dataclass(frozen=True)
class Condition:
    """One comparison of a column with a value; a row without a value in the column never meets it."""

    column: str
    sign: str
    value: str | float

    def as_sql(self) -> str:
        """For LanceDB."""
        quoted = str(self.value).replace("'", "''")
        return f"`{self.column}` {self.sign} " + (f"'{quoted}'" if self.column in TEXTS else repr(self.value))

    def as_expression(self) -> Any:
        """For Arrow."""
        import pyarrow.compute as pc

        return _COMPARE[self.sign](pc.field(self.column), self.value)


def parse(texts: Sequence[str]) -> list[Condition]:
    """Conditions as people write them; all must hold.

    Raises:
        UsageError: an unknown column, or a comparison that cannot be; all of them at once.
    """
    problems: list[str] = []
    conditions = [condition for text in texts if (condition := _parse(text, problems)) is not None]
    if problems:
        raise UsageError(problems, _REMEDY)
    return conditions


def _parse(text: str, problems: list[str]) -> Condition | None:
    match = _SHAPE.fullmatch(text)
    if match is None:
        problems.append(f"where {text}: no comparison")
        return None
    column, sign, value = match["column"], match["sign"], match["value"]
    if column not in COLUMNS:
        near = did_you_mean(column, COLUMNS)
        problems.append(f"where {text}: no column {column!r}{near}; there are {', '.join(COLUMNS)}")
        return None
    if column in TEXTS:
        if sign not in ("=", "!="):
            problems.append(f"where {text}: {column} is text, which takes = and !=")
            return None
        return Condition(column, sign, value)
    try:
        return Condition(column, sign, float(value))
    except ValueError:
        problems.append(f"where {text}: {value!r} is no number")
        return None


def require_known(conditions: Sequence[Condition], table: pa.Table) -> None:
    """Refuse a class, split or prediction that no image of the store has: a typo, which would find nothing.

    Args:
        conditions: parsed.
        table: with the columns class, split and prediction.

    Raises:
        UsageError: with the values that there are.
    """
    import pyarrow.compute as pc

    problems = []
    for condition in conditions:
        if condition.column in ("class", "split", "prediction"):
            known = sorted(filter(None, pc.unique(table[condition.column]).to_pylist()))
            if condition.value not in known:
                near = did_you_mean(str(condition.value), known)
                listed = f"it has {', '.join(known[:20])}" if known else f"its images have no {condition.column}"
                what = f"no image of the store has {condition.column} {condition.value!r}{near}"
                problems.append(f"where {condition.column}{condition.sign}{condition.value}: {what}; {listed}")
    if problems:
        raise UsageError(problems, "correct the value")

"""Types of values in a recipe, each with what it refuses and why."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, model_validator


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("expected text without a NUL character")
    return value


Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Text = Annotated[str, Strict(), Field(min_length=1), AfterValidator(_no_nul)]
"""Keeps its literal text when it comes from YAML: 08, no and 1e3 are names."""

Positive = Annotated[Number, Field(gt=0)]
Count = Annotated[Whole, Field(ge=1)]
Seed = Annotated[Whole, Field(ge=0, lt=2**63)]

RESERVED_OPTIONS = {
    "num_classes": "the classes of the data",
    "in_chans": "model.in_chans",
    "pretrained": "model.weights",
    "weights": "model.weights",
    "checkpoint_path": "model.weights",
    "pretrained_cfg": "model.weights and model.preprocess",
    "pretrained_cfg_overlay": "model.weights and model.preprocess",
    "cache_dir": "the cache folder",
    "features_only": "the head",
    "scriptable": "the program",
    "exportable": "the program",
}
"""Arguments of the libraries' constructors that would go round the recipe (and load files unchecked)."""


def as_name(value: Any) -> Any:
    """A name becomes a folder below runs/, so it must be exactly one step of a path."""
    unfit = isinstance(value, str) and (
        value.startswith(".") or not value.isprintable() or set(value) & set("/\\") or len(value.encode()) > 200
    )
    if unfit:
        raise ValueError("expected a name fit for a folder (no / or \\, not beginning with a dot)")
    return value


def as_classes(value: Any) -> Any:
    """A list of at least two different names; tuples are what the frozen recipe holds."""
    if not isinstance(value, (list, tuple)) or len(value) < 2:
        raise ValueError("expected a list of at least two class names")
    names = Counter(name for name in value if isinstance(name, str))
    if twice := [name for name, times in names.items() if times > 1]:
        raise ValueError(f"{twice[0]!r} is listed twice")
    return tuple(value)


def as_size(value: Any) -> Any:
    """One side for both, or (height, width); at most 8192 because a batch must fit in memory."""
    sides = list(value) if isinstance(value, (list, tuple)) else [value, value]
    if len(sides) != 2 or not all(type(side) is int and 1 <= side <= 8192 for side in sides):
        raise ValueError("expected a whole number or [height, width], each from 1 to 8192")
    return tuple(value) if isinstance(value, (list, tuple)) else value


def as_range(value: Any) -> Any:
    """auto, dtype, or the numbers that are black and white."""
    if value in ("auto", "dtype"):
        return value
    pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(_is_number(item) for item in value)
    if not pair or not value[0] < value[1]:
        raise ValueError("expected auto, dtype or [black, white], the lower number first")
    return float(value[0]), float(value[1])


def as_extensions(value: Any) -> Any:
    """Endings of file names, each with its dot and in lower case; "" for names without one."""
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(item, str) for item in value):
        raise ValueError("expected a list of file name endings, for instance [.jpg, .dat]")
    if unfit := [item for item in value if "/" in item or "*" in item or not item.isprintable()]:
        raise ValueError(f"{unfit[0]!r} is no ending of a file name; write it as in [.jpg, .dat]")
    return tuple(dict.fromkeys(item.lower() if item[:1] in ("", ".") else f".{item.lower()}" for item in value))


def as_numbers(value: Any) -> Any:
    """A list of numbers, one a channel."""
    if not isinstance(value, (list, tuple)) or not value or not all(_is_number(item) for item in value):
        raise ValueError("expected a list of numbers, one a channel")
    return tuple(float(item) for item in value)


def as_spreads(value: Any) -> Any:
    """A list of numbers above 0, one a channel."""
    if any(item <= 0 for item in as_numbers(value)):
        raise ValueError("expected numbers above 0, one a channel")
    return as_numbers(value)


def as_widths(value: Any) -> Any:
    """The width of each hidden layer."""
    if not isinstance(value, (list, tuple)) or not value or not all(type(n) is int and n >= 1 for n in value):
        raise ValueError("expected a list of whole numbers from 1, one a hidden layer")
    return tuple(value)


def as_channels(value: Any) -> Any:
    """1 or 3."""
    if type(value) is not int or value not in (1, 3):
        raise ValueError("expected 1 (grey) or 3 (colour)")
    return value


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _option(value: Any) -> Any:
    plain = isinstance(value, (str, bool, int)) or value is None or _is_number(value)
    if not plain and not isinstance(value, (list, tuple)):
        raise ValueError("expected a plain value or a list of them")
    return [_option(item) for item in value] if isinstance(value, (list, tuple)) else value


Option = Annotated[str | bool | int | float | list[Any] | None, BeforeValidator(_option)]


def as_options(value: Any) -> Any:
    """A mapping of names that a constructor may take."""
    for name in value if isinstance(value, Mapping) else ():
        if name in RESERVED_OPTIONS:
            raise ValueError(f"{name} cannot be an option: it follows from {RESERVED_OPTIONS[name]}")
        if not str(name).isidentifier():
            raise ValueError(f"{name!r} cannot be the name of an option")
    return {} if value is None else value


WEIGHTS_WORDS = {
    **dict.fromkeys(("default", "pretrained", "published", "imagenet", "true"), "default"),
    **dict.fromkeys(("none", "random", "scratch", "false"), "none"),
}
"""What people write for the published weights, and for none."""


def as_weights(value: Any) -> Any:
    """`default` and `none` by any of their usual names; a file, or a name of torchvision's, as it is."""
    if isinstance(value, bool):
        return "default" if value else "none"
    return WEIGHTS_WORDS.get(value.lower(), value) if isinstance(value, str) else value


def as_device(value: Any) -> Any:
    """The name of a device."""
    if isinstance(value, str) and not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", value):
        raise ValueError("expected auto, cpu, cuda, cuda:N or mps")
    return value


def as_threshold(value: Any) -> Any:
    """A confidence, or that it is to be found."""
    if value is not None and value != "auto" and not (_is_number(value) and 0 < value <= 1):
        raise ValueError("expected auto, or a confidence above 0 and up to 1")
    return value


def head_kind(value: Any) -> str:
    """Which branch of the union a head belongs to."""
    return "<layers>" if isinstance(value, (Mapping, BaseModel)) else "<word>"


class Section(BaseModel):
    """A mapping of known keys. One that is there but empty is the same as one that is absent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _empty_is_absent(cls, value: Any) -> Any:
        return {} if value is None else value

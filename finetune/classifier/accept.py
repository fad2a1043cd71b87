"""Arguments of scripts in their usual forms (paths, numbers, lists), checked; errors name the argument."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any

from finetune.errors import UsageError
from finetune.recipe.values import as_weights


def path_of(value: object, name: str = "path") -> Path:
    """A path, given as text or as anything that is one; a leading ~ is the home folder.

    Raises:
        UsageError: it is no path.
    """
    if isinstance(value, str | os.PathLike) and not isinstance(text := os.fspath(value), bytes):
        return Path(text).expanduser()
    raise _refused(name, value, "a path", "give a path, as text or a pathlib.Path")


def name_of(value: object, argument: str, example: str) -> str:
    """A name or a path as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, os.PathLike):
        return str(path_of(value, argument))
    raise _refused(argument, value, "a name", f"give text, such as {example!r}")


def weights_of(value: object) -> str:
    """The argument `weights`: None and False mean none, True the default ones, and so do the usual words for both."""
    if value is None or value is False:
        return "none"
    return "default" if value is True else str(as_weights(name_of(value, "weights", "default")))


def classes_of(value: object) -> list[str]:
    """Class names, in the order of the outputs."""
    remedy = "give the names in the order of the outputs: classes=data.classes, or classes=['cat', 'dog']"
    if isinstance(value, str | bytes | Mapping | Set) or not isinstance(value, Iterable):  # a set has no order
        raise _refused("classes", value, "a list of names", remedy)
    names = [str(name) if type(name).__module__ == "numpy" else name for name in value]
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise _refused("classes", wrong[0], "a class name", remedy)
    return names


def patterns_of(value: object, argument: str) -> tuple[str, ...]:
    """Layer patterns: one, or several."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Iterable) and not isinstance(value, bytes | Mapping):
        patterns = tuple(value)
        if all(isinstance(pattern, str) for pattern in patterns):
            return patterns
    raise _refused(argument, value, "layer patterns", f"give one or several, such as {argument}=['stem', 'layer1']")


def unfreeze_of(value: object) -> dict[str, int] | None:
    """Layer pattern → epoch; one pattern, or several, learn from the start."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return dict.fromkeys(patterns_of(value, "unfreeze"), 0)
    for pattern, epoch in value.items():
        if not isinstance(pattern, str) or not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
            wrong = pattern if not isinstance(pattern, str) else epoch
            raise _refused("unfreeze", wrong, "an epoch of a pattern", "give pattern → epoch: {'head': 0, 'layer4': 3}")
    return dict(value)


def head_of(value: object) -> str | dict[str, Any]:
    """linear, the sizes of hidden layers, or a mapping."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if isinstance(value, list | tuple) and value and all(isinstance(size, int) for size in value):
        return {"hidden": list(value)}
    return _mapping(value, "head", "'linear', [128], or {'hidden': [128], 'dropout': 0.2}")


def features_of(value: object) -> str:
    """The argument `features`, checked: last, stages or auto."""
    if value in ("last", "stages", "auto"):
        return str(value)
    raise UsageError(f"features: {value!r} is not known", "write 'last', 'stages' or 'auto'")


def preprocess_of(value: object) -> dict[str, Any]:
    """A mapping, or the size alone: 224, or (height, width)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"size": value}
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(side, int) for side in value):
        return {"size": list(value)}
    return {} if value is None else _mapping(value, "preprocess", "224, or {'size': 224, 'mean': […], 'std': […]}")


def options_of(value: object) -> dict[str, Any]:
    """The argument `options`, checked: a mapping that the architecture is built with."""
    return {} if value is None else _mapping(value, "options", "{'drop_path_rate': 0.1}")


def whole_number(value: object, argument: str, least: int = 0) -> int:
    """A whole number from `least` on, of 63 bits at most; NumPy's are taken, too."""
    number = getattr(value, "item", lambda: value)()
    if isinstance(number, int) and not isinstance(number, bool) and least <= number < 2**63:
        return number
    raise _refused(argument, value, f"a whole number from {least}", f"give one, such as {argument}={max(least, 1)}")


def _mapping(value: object, argument: str, example: str) -> dict[str, Any]:
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return dict(value)
    raise _refused(argument, value, "understood", f"give {example}")


def _refused(argument: str, value: object, wanted: str, remedy: str) -> UsageError:
    """The error that names the argument and what was given for it."""
    text = repr(value)
    shown = text if len(text) <= 60 else f"a {type(value).__name__}"
    return UsageError(f"{argument}: {shown} is not {wanted}", remedy)

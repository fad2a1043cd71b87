"""Objects that training scripts save beside the weights, and that PyTorch's safe reader may build: data, no code.

`torch.load(weights_only=True)` refuses every class that it does not know. These are known to hold values only: building
one calls nothing that a file could choose. The list is explicit and closed; no name from a file is ever looked up.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import pathlib
import types
from typing import Any

import numpy as np
import torch

_NUMBERS = (np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)
_FLOATS = (np.float16, np.float32, np.float64, np.complex64, np.complex128)
_PLAIN = (list, dict, set, int, float, str, bool)
"""What a defaultdict may make; pickles of protocol 2 call their home `__builtin__`."""

_PATHS = {"PosixPath": pathlib.PurePosixPath, "WindowsPath": pathlib.PureWindowsPath, "Path": pathlib.PurePath}


def _numpy_makers() -> tuple[Any, Any]:
    """What a pickle of a NumPy number and of an array calls; their names are in every such file, so they stay."""
    numbers = np._core.multiarray  # type: ignore[attr-defined]  # no public name leads to them
    return numbers.scalar, numbers._reconstruct


def _plain_dict(*made_by: Any) -> dict[Any, Any]:
    """A dict in place of a defaultdict, whose items PyTorch's reader would not set."""
    return {}


def harmless() -> list[Any]:
    """For `torch.serialization.safe_globals`: classes, and (class, name in the file) where it has another name there.

    Paths come back as pure ones, which never touch a disk.
    """
    paths = [(kind, f"{home}.{name}") for name, kind in _PATHS.items() for home in ("pathlib", "pathlib._local")]
    array = [
        (function, f"numpy.{home}.multiarray.{function.__name__}")
        for home in ("core", "_core")
        for function in _numpy_makers()
    ]
    return [
        argparse.Namespace,
        types.SimpleNamespace,
        collections.OrderedDict,
        (_plain_dict, "collections.defaultdict"),
        *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone),
        *(pathlib.PurePosixPath, pathlib.PureWindowsPath, *paths),
        *(np.dtype, np.ndarray, *_NUMBERS, *_FLOATS, *array),
        *(type(np.dtype(kind)) for kind in (*_NUMBERS, *_FLOATS, np.str_)),
        *((kind, f"{home}.{kind.__name__}") for kind in _PLAIN for home in ("builtins", "__builtin__")),
        torch.torch_version.TorchVersion,
    ]

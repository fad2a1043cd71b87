"""Fine-tune image classifiers: freeze what should stay, train the rest, and say honestly how good the result is.

The public names are loaded on first use, so that importing the package (and `finetune --help`) costs no torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.classifier import Classifier, load
    from finetune.data.folder import ImageFolder
    from finetune.errors import FinetuneError
    from finetune.run import open_run, resume, run

__all__ = ["Classifier", "FinetuneError", "ImageFolder", "load", "open_run", "resume", "run"]
__version__ = "0.1.0"

_HOMES = {
    "Classifier": "finetune.classifier",
    "FinetuneError": "finetune.errors",
    "ImageFolder": "finetune.data.folder",
    "load": "finetune.classifier",
    "open_run": "finetune.run",
    "resume": "finetune.run",
    "run": "finetune.run",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module, once (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The names that exist, and the public ones not loaded yet."""
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """This package, in which `finetune.run` is always the function.

    Importing a submodule binds it in its package: without this, the module `finetune.run` would hide the function of
    the same name as soon as anything imported it.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

"""Fine-tune image classifiers: freeze what should stay, train the rest, and say honestly how good the result is.

The public names are loaded on first use, so that importing the package (and `finetune --help`) costs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.classifier import Classifier, load
    from finetune.data.folder import ImageFolder
    from finetune.deliver.compare import compare
    from finetune.deliver.embed import embed
    from finetune.deliver.vectors.store import VectorStore
    from finetune.errors import FinetuneError
    from finetune.story.result import Run
    from finetune.story.resume import open_run, resume
    from finetune.story.run import fit, run

__all__ = [
    "Classifier",
    "FinetuneError",
    "ImageFolder",
    "Run",
    "VectorStore",
    "compare",
    "embed",
    "fit",
    "load",
    "open_run",
    "resume",
    "run",
]
__version__ = "0.1.0"

_HOMES = {
    "Classifier": "finetune.classifier",
    "FinetuneError": "finetune.errors",
    "ImageFolder": "finetune.data.folder",
    "Run": "finetune.story.result",
    "VectorStore": "finetune.deliver.vectors.store",
    "embed": "finetune.deliver.embed",
    "compare": "finetune.deliver.compare",
    "fit": "finetune.story.run",
    "load": "finetune.classifier",
    "open_run": "finetune.story.resume",
    "resume": "finetune.story.resume",
    "run": "finetune.story.run",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module, once (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names only, loaded or not."""
    return sorted([*__all__, "__version__"])

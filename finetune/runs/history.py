"""`history.csv`: one row an epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.files import write_csv

if TYPE_CHECKING:
    import pandas as pd

HISTORY = [
    "epoch",
    "phase",
    "lr",
    "train_loss",
    "val_loss",
    "val_accuracy",
    "val_macro_f1",
    "seconds",
    "images_per_second",
]
"""The columns that every history has, in order; an epoch's further values come after them."""


def write_history(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Publish the records of the epochs so far."""
    columns = list(dict.fromkeys([*HISTORY, *(name for record in history for name in record)]))
    write_csv(path, columns, ([record.get(name) for name in columns] for record in history))


def read_history(path: Path) -> pd.DataFrame:
    """The history as a table: one row an epoch, numbers as numbers."""
    import pandas as pd

    return pd.read_csv(path)

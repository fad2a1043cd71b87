"""Collects parts of a report that failed: they are named, and everything else is made all the same.

When a report is drawn, the network is trained and published: hours of work must not end as `failed` for a picture.
A disk that is full, a lost image or Ctrl-C is no fault of a picture and goes through.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path

from finetune.errors import DataError, FinetuneError


class Faults:
    """Collects a line for each part that failed, in `lines`."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextlib.contextmanager
    def tolerate(self, part: str) -> Iterator[None]:
        """Go on after a fault inside; `part` names what is missing then.

        Raises:
            FinetuneError: as it came, if it is about the machine or a wish to stop.
        """
        try:
            yield
        except DataError as error:
            self.lines.append(f"{part} is missing: {error.problems[0]}")
        except FinetuneError:
            raise
        except Exception as error:  # whatever it is: the rest of the report does not depend on it
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(frame.filename).name}:{frame.lineno}"
            problem = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            self.lines.append(f"{part} is missing: {problem} ({where}). The network is whole; please report this bug")

"""The time that each stage of a run took."""

from __future__ import annotations

import time


class Clock:
    """Seconds of each stage of a run.

    Args:
        started: when the first stage began, by `time.perf_counter`; now if it is not given.
    """

    def __init__(self, started: float | None = None) -> None:
        self.laps: dict[str, float] = {}
        self._last = self._started = time.perf_counter() if started is None else started

    def lap(self, name: str) -> None:
        """Note the seconds of the stage that ends now."""
        now = time.perf_counter()
        self.laps.pop("total", None)  # the last of all
        self.laps[name] = round(now - self._last, 3)
        self._last = now
        self.laps["total"] = round(now - self._started, 3)

"""The steps of one batch, one after the other: each is logged, and its seconds are kept."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger


class Steps:
    """Of a batch with so many rows, whose first step began at `began` (`time.monotonic`)."""

    def __init__(self, log: FilteringBoundLogger, rows: int, began: float) -> None:
        self.seconds: dict[str, float] = {}
        self._log = log
        self._rows = rows
        self._began = began

    def end(self, step: str) -> None:
        """Log a step with its rows, seconds and rate; the next one begins."""
        now = time.monotonic()
        seconds, self._began = now - self._began, now
        self.seconds[step] = round(seconds, 3)
        rate = round(self._rows / seconds) if seconds else 0
        self._log.info(step, rows=self._rows, seconds=self.seconds[step], rows_per_second=rate)

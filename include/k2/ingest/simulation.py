"""What is simulated when no archive is given; light, so that the command line starts fast."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass


@dataclass(frozen=True)
class Simulation:
    """A simulation: the same values give the same trades.

    By default a full day and a bit, so that candles of every timeframe are complete. `trades` is
    over all exchanges, `start` is UTC.
    """

    seed: int = 1
    trades: int = 200_000
    hours: float = 27.0
    start: dt.datetime = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)

"""Rows of the layers in steps: each step brings new ones, and some that were there before."""

from __future__ import annotations

import datetime as dt
import itertools
from typing import TYPE_CHECKING, Any

from tests.integration.offload.rows import START, candle, silver_trade, trade

if TYPE_CHECKING:
    from collections.abc import Iterator

Rows = list[dict[str, Any]]
REPLAYED = 50


def bronze(count: int, days: int) -> Iterator[Rows]:
    """Messages of three log partitions, mixed by day; the last ones come again."""
    for first in itertools.count(step=count):
        numbers = range(max(0, first - REPLAYED), first + count)
        yield [trade(n, day=n % days, kafka_partition=n // days % 3) for n in numbers]


def silver(count: int, days: int) -> Iterator[Rows]:
    """Trades of three log partitions; the last messages come again."""
    for first in itertools.count(step=count):
        numbers = range(max(0, first - REPLAYED), first + count)
        yield [
            silver_trade(
                n,
                offset=n,
                kafka_partition=n // days % 3,
                timestamp=START + dt.timedelta(days=n % days, seconds=n),
            )
            for n in numbers
        ]


def gold(count: int, days: int) -> Iterator[Rows]:
    """Candles; the last ones are corrected with each step."""
    for step in itertools.count():
        numbers = range(max(0, step * count - REPLAYED), (step + 1) * count)
        yield [candle(n // days, day=n % days, settled=step, close=f"{step}.25") for n in numbers]


FEEDS = {"bronze": bronze, "silver": silver, "gold": gold}

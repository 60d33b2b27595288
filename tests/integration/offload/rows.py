"""Rows of the layers, as short as a test needs them."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

START = dt.datetime(2024, 11, 20, tzinfo=dt.UTC)


def trade(offset: int, *, day: int = 0, **changes: Any) -> dict[str, Any]:
    """A bronze row: one trade a second from midnight of a day."""
    time = START + dt.timedelta(days=day, seconds=offset % 86400)
    return {
        "exchange_timestamp": time,
        "sequence_number": offset,
        "symbol": "BTCUSDT",
        "price": Decimal(offset % 1000) / 8,
        "kafka_offset": offset,
        "kafka_partition": 0,
        "ingestion_timestamp": time,
        **changes,
    }


def silver_trade(number: int, *, offset: int, **changes: Any) -> dict[str, Any]:
    """A silver row; its trade number is its identity."""
    time = START + dt.timedelta(seconds=number)
    return {
        "exchange": "binance",
        "canonical_symbol": "BTC/USDT",
        "timestamp": time,
        "trade_id": number,
        "price": Decimal(number) / 8,
        "kafka_offset": offset,
        "kafka_partition": 0,
        "ingestion_timestamp": time,
        "arrival_rank": 0,
        **changes,
    }


def candle(minute: int, *, day: int = 0, settled: int = 0, close: str = "1.5") -> dict[str, Any]:
    """A gold row, settled so many seconds after the first settlement."""
    return {
        "exchange": "binance",
        "canonical_symbol": "BTC/USDT",
        "window_start": START + dt.timedelta(days=day, minutes=minute),
        "close": Decimal(close),
        "volume": Decimal("-99999999999999999999999999999.00000001"),
        "trades": 3,
        "settled_at": START + dt.timedelta(days=30, seconds=settled, microseconds=1),
    }

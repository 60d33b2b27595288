"""Candles by pandas, in whole units of 1e-8: the independent reference of all tests."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TIMEFRAMES = {
    "ohlcv_1m": "1min",
    "ohlcv_5m": "5min",
    "ohlcv_15m": "15min",
    "ohlcv_30m": "30min",
    "ohlcv_1h": "1h",
    "ohlcv_1d": "1D",
}
UNIT = Decimal("0.00000001")
CANDLE_COLUMNS = (
    "window_start",
    "open_price",
    "high_price",
    "low_price",
    "close_price",
    "volume",
    "quote_volume",
    "buy_volume",
    "trade_count",
    "first_trade_id",
    "last_trade_id",
)


@dataclass(frozen=True)
class Trade:
    """One trade of a market; times in UTC milliseconds."""

    trade_id: int
    milliseconds: int
    price: Decimal
    quantity: Decimal
    side: str
    market: str = "XRPETH"

    @property
    def time(self) -> datetime:
        seconds, milliseconds = divmod(self.milliseconds, 1000)
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=milliseconds * 1000)

    @property
    def quote_volume(self) -> Decimal:
        return (self.price * self.quantity).quantize(UNIT, ROUND_HALF_EVEN)

    def bronze_row(self, offset: int, partition: int = 0) -> tuple[object, ...]:
        return (
            self.time,
            self.trade_id,
            self.market,
            self.side,
            self.price,
            self.quantity,
            self.quote_volume,
            self.time,
            offset,
            partition,
        )


def read_archive(path: Path) -> list[Trade]:
    """The trades of a Binance aggTrades archive, in its order."""
    with path.open(newline="") as file:
        return [
            Trade(
                int(row["agg_trade_id"]),
                int(row["transact_time"]),
                Decimal(row["price"]),
                Decimal(row["quantity"]),
                "sell" if row["is_buyer_maker"] == "true" else "buy",
            )
            for row in csv.DictReader(file)
        ]


def reference_candles(trades: Sequence[Trade], timeframe: str) -> list[tuple[object, ...]]:
    """Candles in the order of CANDLE_COLUMNS, by window."""
    frame = pd.DataFrame(
        {
            "time": pd.to_datetime([trade.milliseconds for trade in trades], unit="ms", utc=True),
            "trade_id": [trade.trade_id for trade in trades],
            "price": [_units(trade.price) for trade in trades],
            "quantity": [_units(trade.quantity) for trade in trades],
            "quote_volume": [_units(trade.quote_volume) for trade in trades],
            "bought": [_units(trade.quantity) * (trade.side == "buy") for trade in trades],
        }
    ).sort_values(["time", "trade_id"])
    windows = frame.groupby(frame["time"].dt.floor(TIMEFRAMES[timeframe]))
    candles = windows.agg(
        open_price=("price", "first"),
        high_price=("price", "max"),
        low_price=("price", "min"),
        close_price=("price", "last"),
        volume=("quantity", "sum"),
        quote_volume=("quote_volume", "sum"),
        buy_volume=("bought", "sum"),
        trade_count=("trade_id", "count"),
        first_trade_id=("trade_id", "first"),
        last_trade_id=("trade_id", "last"),
    )
    return [
        (
            start.to_pydatetime().replace(tzinfo=None),
            *(int(value) * UNIT for value in row[:7]),
            *(int(value) for value in row[7:]),
        )
        for start, row in zip(candles.index, candles.itertuples(index=False), strict=True)
    ]


def _units(value: Decimal) -> int:
    return int(value / UNIT)

"""One trade, as the archives and the simulator give it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from decimal import Decimal

Side = Literal["buy", "sell"]

# 10**14 microseconds are in 1973, as many milliseconds in 5138: the unit shows in the size.
_FIRST_MICROSECONDS = 10**14


@dataclass(frozen=True, slots=True)
class Trade:
    """A trade on one exchange.

    Attributes:
        symbol: the market as the exchange writes it, such as BTCUSDT or BTC/USD.
        trade_id: the exchange's id, unique in its market and growing with time.
        price: quote currency per unit of the base currency.
        quantity: units of the base currency.
        side: the taker's side.
        timestamp_us: time of the trade, microseconds since 1970, UTC.
    """

    exchange: str
    symbol: str
    trade_id: int
    price: Decimal
    quantity: Decimal
    side: Side
    timestamp_us: int


def microseconds(timestamp: int) -> int:
    """A timestamp in milliseconds or microseconds, in microseconds.

    Binance's archives carry microseconds from 2025 on, milliseconds before
    (https://github.com/binance/binance-public-data).
    """
    return timestamp if timestamp >= _FIRST_MICROSECONDS else timestamp * 1000

"""Binance's spot archives: trades and aggTrades (https://github.com/binance/binance-public-data)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from k2.ingest.archive_files import integer, positive
from k2.ingest.trade import Side, Trade, microseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FORMATS = (
    "Binance trades (id,price,qty,quote_qty,time,is_buyer_maker,is_best_match), "
    "Binance aggTrades (agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,"
    "is_buyer_maker[,is_best_match])"
)

_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class _Layout:
    """Where an archive keeps its time and its maker flag."""

    columns: int
    time: int
    maker: int


_TRADES = _Layout(columns=7, time=4, maker=5)
_AGG_TRADES = _Layout(columns=8, time=5, maker=6)
_AGG_TRADES_OF_7 = _Layout(columns=7, time=5, maker=6)


def binance_rows(symbol: str, cells: Sequence[str]) -> Callable[[Sequence[str]], Trade] | None:
    """What reads the rows of a file that has a row of these cells; None if they tell no format.

    Formats differ in the number of columns and in where the booleans are. The reader raises
    ValueError for a broken row.
    """
    layout = _layout(cells)
    if layout is None:
        return None
    return lambda row: _trade(symbol, layout, row)


def _layout(cells: Sequence[str]) -> _Layout | None:
    booleans = [cell.lower() in _BOOLEANS for cell in cells]
    if len(cells) == 8 and booleans[6:] == [True, True]:
        return _AGG_TRADES
    if len(cells) == 7 and booleans[5:] == [True, True]:
        return _TRADES
    if len(cells) == 7 and booleans[5:] == [False, True]:
        return _AGG_TRADES_OF_7
    return None


def _trade(symbol: str, layout: _Layout, cells: Sequence[str]) -> Trade:
    if len(cells) != layout.columns:
        raise ValueError(f"{len(cells)} columns instead of {layout.columns}")
    maker = cells[layout.maker].lower()
    if maker not in _BOOLEANS:
        raise ValueError(f"is_buyer_maker is not true or false: '{cells[layout.maker]}'")
    side: Side = "sell" if _BOOLEANS[maker] else "buy"
    return Trade(
        exchange="binance",
        symbol=symbol,
        trade_id=integer("trade id", cells[0]),
        price=positive("price", cells[1]),
        quantity=positive("quantity", cells[2]),
        side=side,
        timestamp_us=microseconds(integer("time", cells[layout.time])),
    )

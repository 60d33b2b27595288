"""Trades that look like a day on the exchanges, the same ones for the same seed."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np

from k2.errors import IngestError
from k2.ingest.trade import Side, Trade

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from numpy.typing import NDArray

# Trades that are drawn at once: bounds the memory.
_BATCH = 65_536
_MICROSECONDS_PER_HOUR = 3_600_000_000
_DAILY_VOLATILITY = 0.03
# Of ten trades, six belong to the same order as the one before: bursts of 2.5 on average.
_NEW_ORDER = 0.4
_MAX_LOG_MOVE = 2.0


@dataclass(frozen=True)
class Market:
    """A market: its opening price, typical size, share of all trades, and its grid.

    `digits` are those that the exchange writes; Binance writes eight whatever the grid.
    """

    exchange: str
    symbol: str
    price: float
    size: float
    share: float
    price_decimals: int
    size_decimals: int
    price_digits: int
    size_digits: int


def _binance(symbol: str, price: float, size: float, share: float, grid: tuple[int, int]) -> Market:
    return Market("binance", symbol, price, size, share, *grid, price_digits=8, size_digits=8)


def _kraken(symbol: str, price: float, size: float, share: float, grid: tuple[int, int]) -> Market:
    return Market(
        "kraken", symbol, price, size, share, *grid, price_digits=grid[0], size_digits=grid[1]
    )


MARKETS = (
    _binance("BTCUSDT", 67_250.0, 0.012, 0.24, (2, 5)),
    _binance("ETHUSDT", 3_480.0, 0.25, 0.18, (2, 4)),
    _binance("SOLUSDT", 172.0, 4.0, 0.12, (2, 3)),
    _binance("XRPUSDT", 0.5235, 400.0, 0.09, (4, 0)),
    _binance("BNBUSDT", 596.0, 0.4, 0.07, (1, 3)),
    _kraken("BTC/USD", 67_260.0, 0.01, 0.12, (1, 8)),
    _kraken("ETH/USD", 3_481.0, 0.2, 0.08, (2, 8)),
    _kraken("SOL/EUR", 158.0, 3.0, 0.05, (2, 8)),
    _kraken("XRP/USD", 0.5236, 350.0, 0.03, (5, 8)),
    _kraken("ADA/EUR", 0.4102, 500.0, 0.02, (6, 8)),
)


@dataclass
class _MarketState:
    """Where a market stands between two batches."""

    log_move: float
    next_id: int


@dataclass(frozen=True)
class _Batch:
    """Columns of one batch, a row a trade, in the order of time."""

    timestamp_us: NDArray[np.int64]
    market: NDArray[np.int64]
    is_sell: NDArray[np.bool_]


def simulate(
    seed: int,
    trades: int,
    start: datetime,
    hours: float,
    *,
    exchange: str | None = None,
) -> Iterator[Trade]:
    """Trades of all MARKETS (or one exchange's), in the order of time; memory stays bounded.

    Prices walk on the market's grid with about 3% volatility a day, sizes are log-normal with
    many round ones, orders arrive at random and most of them meet several trades at once.

    Args:
        trades: how many, over all exchanges.
        start: the earliest time, with a time zone.
        hours: they are spread over so many.

    Raises:
        IngestError: trades or hours are not positive, or start has no time zone.
    """
    if trades <= 0 or hours <= 0:
        raise IngestError("the simulator needs at least one trade and a positive number of hours")
    if start.tzinfo is None:
        raise IngestError("the simulator's start needs a time zone, such as UTC")
    return _simulate(seed, trades, start, hours, exchange)


def _simulate(
    seed: int, trades: int, start: datetime, hours: float, exchange: str | None
) -> Iterator[Trade]:
    random = np.random.default_rng(seed)
    states = [_MarketState(0.0, int(random.integers(10**6, 10**9))) for _ in MARKETS]
    first_us = round(start.timestamp() * 1_000_000)
    span_us = hours * _MICROSECONDS_PER_HOUR
    volatility = _DAILY_VOLATILITY * (hours / 24) ** 0.5
    for done in range(0, trades, _BATCH):
        count = min(_BATCH, trades - done)
        batch = _draw_orders(
            random,
            count,
            first_us + int(span_us * done / trades),
            first_us + int(span_us * (done + count) / trades),
        )
        yield from _trades_of(random, batch, states, volatility / trades**0.5, exchange)


def _draw_orders(random: np.random.Generator, count: int, since: int, until: int) -> _Batch:
    """Who trades when: each order takes one side of one market, its trades at the same time."""
    is_new = random.random(count) < _NEW_ORDER
    is_new[0] = True
    order = np.cumsum(is_new) - 1
    orders = int(order[-1]) + 1
    # Shares add up to one; the cumulative form is far faster than Generator.choice.
    shares = np.cumsum([market.share for market in MARKETS])
    market = np.minimum(np.searchsorted(shares, random.random(orders)), len(MARKETS) - 1)
    timestamp = np.sort(random.integers(since, max(until, since + 1), orders))
    is_sell = random.random(orders) < 0.5
    return _Batch(timestamp[order], market[order], is_sell[order])


def _trades_of(
    random: np.random.Generator,
    batch: _Batch,
    states: list[_MarketState],
    volatility: float,
    exchange: str | None,
) -> Iterator[Trade]:
    count = len(batch.market)
    steps = random.standard_normal(count)
    sizes = random.standard_normal(count)
    is_round = random.random(count) < 0.4
    ids = np.zeros(count, dtype=np.int64)
    prices = np.zeros(count, dtype=np.int64)
    quantities = np.zeros(count, dtype=np.int64)
    for index, market in enumerate(MARKETS):
        rows = np.flatnonzero(batch.market == index)
        state = states[index]
        prices[rows] = _walk(market, state, steps[rows] * volatility / market.share**0.5)
        quantities[rows] = _sizes(market, sizes[rows], is_round[rows])
        ids[rows] = np.arange(state.next_id, state.next_id + len(rows))
        state.next_id += len(rows)
    columns = (batch.market, ids, prices, quantities, batch.is_sell, batch.timestamp_us)
    for index, trade_id, price, quantity, is_sell, timestamp in zip(
        *(column.tolist() for column in columns), strict=True
    ):
        market = MARKETS[index]
        if exchange is not None and market.exchange != exchange:
            continue
        side: Side = "sell" if is_sell else "buy"
        yield Trade(
            market.exchange,
            market.symbol,
            trade_id,
            _decimal(price, market.price_decimals, market.price_digits),
            _decimal(quantity, market.size_decimals, market.size_digits),
            side,
            timestamp,
        )


def _walk(market: Market, state: _MarketState, steps: NDArray[np.float64]) -> NDArray[np.int64]:
    """Prices in ticks: a geometric random walk that goes on from the batch before."""
    moves = np.clip(state.log_move + np.cumsum(steps), -_MAX_LOG_MOVE, _MAX_LOG_MOVE)
    if len(moves):
        state.log_move = float(moves[-1])
    ticks = np.rint(market.price * np.exp(moves) * 10**market.price_decimals)
    grid: NDArray[np.int64] = np.maximum(ticks, 1).astype(np.int64)
    return grid


def _sizes(
    market: Market, normal: NDArray[np.float64], is_round: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Quantities in lots: log-normal, and people like round numbers."""
    lots = market.size * np.exp(1.2 * normal) * 10**market.size_decimals
    magnitude = 10.0 ** np.floor(np.log10(np.maximum(lots, 1)))
    rounded = np.where(is_round, np.rint(lots / magnitude) * magnitude, np.rint(lots))
    grid: NDArray[np.int64] = np.maximum(rounded, 1).astype(np.int64)
    return grid


def _decimal(units: int, decimals: int, digits: int) -> Decimal:
    """So many units of 10**-decimals, written with `digits` fractional digits."""
    return Decimal(units * 10 ** (digits - decimals)).scaleb(-digits)

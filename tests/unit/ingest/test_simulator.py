"""The simulator: deterministic, and like a day on the exchanges."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from k2.errors import IngestError
from k2.ingest.simulation import Simulation
from k2.ingest.simulator import MARKETS, simulate

if TYPE_CHECKING:
    from k2.ingest.trade import Trade

START = datetime(2026, 1, 1, 22, tzinfo=UTC)


@pytest.fixture(scope="module")
def trades() -> list[Trade]:
    return list(simulate(7, 100_000, START, 26.5))


def test_the_same_seed_gives_the_same_trades_and_another_one_does_not(trades: list[Trade]) -> None:
    assert list(simulate(7, 100_000, START, 26.5)) == trades
    assert list(simulate(8, 100, START, 26.5)) != list(simulate(7, 100, START, 26.5))


def test_there_are_as_many_as_asked_for_in_every_market(trades: list[Trade]) -> None:
    assert len(trades) == 100_000
    assert {(t.exchange, t.symbol) for t in trades} == {(m.exchange, m.symbol) for m in MARKETS}


def test_one_exchange_alone_is_the_same_as_among_all(trades: list[Trade]) -> None:
    kraken = list(simulate(7, 100_000, START, 26.5, exchange="kraken"))
    assert kraken == [trade for trade in trades if trade.exchange == "kraken"]


def test_they_fill_the_time_in_order_and_come_in_bursts(trades: list[Trade]) -> None:
    times = [trade.timestamp_us for trade in trades]
    assert times == sorted(times)
    first = int(START.timestamp() * 1_000_000)
    assert first <= times[0]
    assert times[-1] < first + timedelta(hours=26.5) // timedelta(microseconds=1)
    assert {(time - first) // 3_600_000_000 for time in times} == set(range(27))
    sharing = sum(n for n in Counter(time // 1000 for time in times).values() if n > 1)
    assert sharing > len(times) // 4


def test_ids_grow_without_gaps_in_each_market(trades: list[Trade]) -> None:
    ids = defaultdict(list)
    for trade in trades:
        ids[trade.symbol].append(trade.trade_id)
    for numbers in ids.values():
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_prices_walk_on_the_grid_and_sizes_are_positive(trades: list[Trade]) -> None:
    for market in MARKETS:
        prices = [float(t.price) for t in trades if t.symbol == market.symbol]
        assert all(
            abs(round(p * 10**market.price_decimals) / 10**market.price_decimals - p) < 1e-9
            for p in prices
        )
        assert market.price / 2 < min(prices) < max(prices) < market.price * 2
        assert len(set(prices)) > 10
        assert all(abs(a / b - 1) < 0.02 for a, b in itertools.pairwise(prices))
    assert all(trade.quantity > 0 for trade in trades)


def test_the_default_simulation_has_trades_in_every_hour_of_more_than_a_day() -> None:
    default = Simulation()
    trades = list(simulate(default.seed, default.trades, default.start, default.hours))
    first = int(default.start.timestamp())
    assert len(trades) == default.trades >= 200_000
    assert default.hours >= 26
    hours = {(trade.timestamp_us // 1_000_000 - first) // 3600 for trade in trades}
    assert hours == set(range(int(default.hours)))
    assert len({(trade.exchange, trade.symbol) for trade in trades}) >= 5


@pytest.mark.parametrize(("count", "hours"), [(0, 1.0), (1, 0.0)])
def test_nothing_to_simulate_is_an_error(count: int, hours: float) -> None:
    with pytest.raises(IngestError, match="at least one trade"):
        simulate(1, count, START, hours)


def test_a_start_without_a_time_zone_is_an_error() -> None:
    with pytest.raises(IngestError, match="time zone"):
        simulate(1, 1, START.replace(tzinfo=None), 1)

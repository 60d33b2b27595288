"""Readers of the views while trades come in and dbt settles: each minute once, none missing."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from k2.clickhouse import connect

from .conftest import GOLD_TABLES, Warehouse
from .reference import Trade

if TYPE_CHECKING:
    from collections.abc import Sequence

CANDLES = ("--select", "path:models/gold/live", "+path:models/gold/views")
SETTLED = ("--select", "path:models/gold/settled")
RUNS = 2
READ = ("ohlcv_1m", "ohlcv_5m", "ohlcv_1h")


@dataclass(eq=False)
class Reader(threading.Thread):
    """Reads one view again and again, and writes down what never may be."""

    warehouse: Warehouse
    table: str
    stop: threading.Event
    wrong: list[str] = field(default_factory=list)
    reads: int = 0
    settled: set[object] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def run(self) -> None:
        before: dict[object, int] = {}
        with connect(self.warehouse.settings.clickhouse) as client:
            while not self.stop.is_set():
                rows = client.query(
                    f"select window_start, trade_count, is_settled from {self.table}_view",
                    # Long enough for others to write between the snapshots of two tables.
                    settings={"merge_tree_storage_snapshot_sleep_ms": 40},
                ).result_rows
                before = self._compare(before, rows)
                self.reads += 1

    def _compare(
        self, before: dict[object, int], rows: Sequence[Sequence[Any]]
    ) -> dict[object, int]:
        counts = {start: trades for start, trades, _ in rows}
        times = Counter(start for start, *_ in rows)
        self.wrong += [f"{start} is there {n} times" for start, n in times.items() if n > 1]
        self.wrong += [f"{start} is gone" for start in before if start not in counts]
        self.wrong += [
            f"{start} had {trades} trades, has {counts[start]}"
            for start, trades in before.items()
            if counts.get(start, trades) < trades
        ]
        self.settled |= {start for start, _, is_settled in rows if is_settled}
        return counts


@pytest.fixture(scope="module")
def readers(warehouse: Warehouse) -> list[Reader]:
    """Readers of views during some runs of dbt, each with trades of settled and new minutes."""
    warehouse.dbt("build", *CANDLES, "--exclude-resource-type", "test", "unit_test")
    minutes = [
        datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=n) for n in range(60)
    ]
    fed, done, offset = threading.Event(), threading.Event(), 0

    def feed(until: threading.Event) -> None:
        nonlocal offset
        while not until.wait(0.05):
            time = minutes[(offset * 7) % len(minutes)] + timedelta(milliseconds=offset % 50_000)
            milliseconds = round(time.timestamp() * 1000)
            trade = Trade(offset, milliseconds, Decimal(5), Decimal(1), "buy")
            # Every trade is produced twice.
            rows = [trade.bronze_row(2 * offset), trade.bronze_row(2 * offset + 1)]
            warehouse.feed("binance", rows)
            offset += 1

    threads = [Reader(warehouse, table, done) for table in READ]
    feeder = threading.Thread(target=feed, args=(fed,))
    try:
        for thread in (*threads, feeder):
            thread.start()
        for _ in range(RUNS):
            warehouse.dbt("run", *SETTLED)
        fed.set()
        feeder.join()
        # A window that goes on getting trades is hardly ever seen settled.
        warehouse.dbt("run", *SETTLED)
        reads = [reader.reads for reader in threads]
        while any(reader.reads < before + 2 for reader, before in zip(threads, reads, strict=True)):
            assert all(reader.is_alive() for reader in threads)
            done.wait(0.05)
    finally:
        fed.set()
        done.set()
        for thread in (*threads, feeder):
            thread.join()
    return threads


def test_readers_never_see_a_window_twice_or_missing_or_with_fewer_trades(
    readers: list[Reader],
) -> None:
    assert {reader.table: reader.wrong for reader in readers} == {table: [] for table in READ}


def test_readers_saw_windows_being_settled(readers: list[Reader]) -> None:
    for reader in readers:
        assert reader.reads > RUNS
    assert {reader.table for reader in readers if reader.settled} >= {"ohlcv_1m", "ohlcv_5m"}


def test_after_the_runs_every_trade_is_in_the_views_once(
    readers: list[Reader], warehouse: Warehouse
) -> None:
    ((trades,),) = warehouse.query("select count() from silver_trades final")
    for table in GOLD_TABLES:
        assert warehouse.query(f"select sum(trade_count) from {table}_view") == [(trades,)]

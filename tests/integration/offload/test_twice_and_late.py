"""Trades that come twice, days apart, and trades that come late: from Bronze by dbt to Iceberg."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from tests.integration.dbt.conftest import BRONZE_COLUMNS

from k2.clickhouse import connect
from k2.ingest.bronze import create_bronze
from k2.registry import registry
from k2.settings import Lake
from k2.transform import run_dbt

from .conftest import Bench

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clickhouse_connect.driver.client import Client

    from k2.settings import Settings

CANDLES = ("--select", "path:models/gold/live", "+path:models/gold/views")
DATABASE = "twice_and_late"
GOLD = tuple(table.name for table in registry().tables if table.layer == "gold")
TABLES = ("silver_trades", *GOLD)
# Two years, two months of each, two days of those: every table has partitions that stay untouched.
TIMES = [
    dt.datetime(year, month, day, 12, minute, 30, tzinfo=dt.UTC)
    for year in (2023, 2024)
    for month in (5, 6)
    for day in (1, 2)
    for minute in (0, 1)
]
LATE_TIME = TIMES[5] - dt.timedelta(seconds=20)


@pytest.fixture(autouse=True, scope="module")
def narrowed() -> Iterator[None]:
    """Tables of a few rows are read as large ones are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("k2.offload.source.NARROWED_OF", 1)
        yield


@dataclass(frozen=True)
class State:
    """What is there after a step, by table."""

    clickhouse: dict[str, list[tuple[Any, ...]]]
    lake: dict[str, list[tuple[Any, ...]]]
    files: dict[str, dict[str, list[str]]]
    views: dict[str, list[tuple[Any, ...]]]
    live: list[tuple[Any, ...]]


@dataclass(frozen=True)
class Medallion:
    """Bronze, what dbt makes of it, and the lake."""

    settings: Settings
    client: Client
    state: Path
    benches: dict[str, Bench]

    def feed(self, trades: dict[int, dt.datetime], *, offset: int, arrived: dt.datetime) -> None:
        """Trades by id; each gets the next offset of the log."""
        rows = [
            (time, number, "BTCUSDT", "buy", number, 2, 2 * number, time, place, 0, arrived)
            for place, (number, time) in enumerate(trades.items(), start=offset)
        ]
        self.client.insert(
            "bronze_trades_binance", rows, column_names=[*BRONZE_COLUMNS, "ingestion_timestamp"]
        )

    def settle_and_offload(self) -> State:
        live = self.live()
        run_dbt(["run", "--quiet", *CANDLES], self.settings, state=self.state)
        for bench in self.benches.values():
            bench.offload()
        return State(
            clickhouse={name: bench.source_rows() for name, bench in self.benches.items()},
            lake={name: bench.lake_rows() for name, bench in self.benches.items()},
            files={name: bench.committed_files() for name, bench in self.benches.items()},
            views={name: self.view(name) for name in GOLD},
            live=live,
        )

    def view(self, table: str) -> list[tuple[Any, ...]]:
        return self._rows(
            f"select window_start, trade_count, volume, is_settled from {table}_view"
            " order by window_start"
        )

    def live(self) -> list[tuple[Any, ...]]:
        """The candles that are not settled yet, of all timeframes."""
        return [candle for table in GOLD for candle in self.view(table) if not candle[-1]]

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.client.query(sql).result_rows]


@pytest.fixture(scope="module")
def medallion(
    services: Settings, jvm: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Medallion]:
    directory = tmp_path_factory.mktemp(DATABASE)
    settings = replace(
        services,
        clickhouse=replace(services.clickhouse, database=DATABASE),
        lake=Lake(f"file:{directory / 'lake'}"),
    )
    with connect(services.clickhouse) as client:
        create_bronze(client, registry(), queue="embedded", database=DATABASE)
    with connect(settings.clickhouse) as client:
        run_dbt(
            ["build", "--quiet", *CANDLES, "--exclude-resource-type", "test", "unit_test"],
            settings,
            state=directory / "dbt",
        )
        benches = {name: Bench(settings, client, jvm, registry().table(name)) for name in TABLES}
        for bench in benches.values():
            bench.forget()
            bench.create_lake_table()
        yield Medallion(settings, client, directory / "dbt", benches)


@pytest.fixture(scope="module")
def first(medallion: Medallion) -> State:
    """Trades of two days ago, settled and offloaded."""
    arrived = dt.datetime.now(dt.UTC) - dt.timedelta(days=2)
    medallion.feed(dict(enumerate(TIMES, start=1)), offset=0, arrived=arrived)
    return medallion.settle_and_offload()


@pytest.fixture(scope="module")
def again(first: State, medallion: Medallion) -> State:
    """The same trades, produced once more under other offsets."""
    now = dt.datetime.now(dt.UTC)
    medallion.feed(dict(enumerate(TIMES, start=1)), offset=1000, arrived=now)
    return medallion.settle_and_offload()


@pytest.fixture(scope="module")
def late(again: State, medallion: Medallion) -> State:
    """A trade of a minute that is settled and offloaded; produced twice, at once."""
    now = dt.datetime.now(dt.UTC)
    medallion.feed({100: LATE_TIME}, offset=2000, arrived=now)
    medallion.feed({100: LATE_TIME}, offset=2001, arrived=now)
    return medallion.settle_and_offload()


def test_the_first_time_every_trade_is_in_a_candle_of_each_timeframe(first: State) -> None:
    assert len(first.clickhouse["silver_trades"]) == len(TIMES)
    for table in GOLD:
        assert sum(trades for _, trades, *_ in first.views[table]) == len(TIMES)
        assert len(first.files[table]) > 1


def test_a_trade_produced_again_days_after_its_offload_is_one_trade_everywhere(
    first: State, again: State
) -> None:
    assert again.clickhouse == first.clickhouse
    assert again.lake == first.lake == first.clickhouse
    assert again.files == first.files


def test_a_trade_produced_again_is_counted_once_in_settled_and_live_candles_and_views(
    first: State, again: State
) -> None:
    assert again.views == first.views
    assert again.live == []


def test_a_late_trade_is_in_the_live_candles_of_its_windows_once(late: State) -> None:
    (minute, *_) = late.live
    assert minute == (LATE_TIME.replace(second=0, tzinfo=None), 2, Decimal(4), 0)
    assert len(late.live) == len(GOLD)


@pytest.mark.parametrize("table", GOLD)
def test_a_late_trade_rewrites_its_candle_in_clickhouse_and_no_other(
    again: State, late: State, table: str
) -> None:
    """Rows have the time at which they were settled."""
    before, after = set(again.clickhouse[table]), set(late.clickhouse[table])
    assert len(before - after) == len(after - before) == 1


@pytest.mark.parametrize("table", GOLD)
def test_a_late_trade_rewrites_its_candle_in_the_lake_and_no_file_of_another_partition(
    again: State, late: State, table: str
) -> None:
    assert late.lake[table] == late.clickhouse[table]
    rewritten = {
        partition
        for partition, paths in late.files[table].items()
        if paths != again.files[table][partition]
    }
    (partition,) = rewritten
    assert f"{LATE_TIME:%Y-%m-%d}".startswith(partition)


def test_the_late_trade_is_one_trade_in_the_lake(again: State, late: State) -> None:
    assert late.lake["silver_trades"] == late.clickhouse["silver_trades"]
    assert len(late.lake["silver_trades"]) == len(again.lake["silver_trades"]) + 1

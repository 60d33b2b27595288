"""The data tests of settled candles: what they find, and how far the record says they have passed.

dbt compiles the tests once; their SQL then reads copies of the tables that something is wrong in.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from k2.clickhouse import connect
from k2.transform import TransformError

from .conftest import BRONZE_COLUMNS, GOLD_TABLES
from .reference import Trade

if TYPE_CHECKING:
    from .conftest import Warehouse

# All candles are of windows that ended long before they were settled.
YESTERDAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
# What a candle can never be.
IMPOSSIBLE = {
    "no volume": "toDecimal64(0, 8) as volume",
    "no trades": "toUInt64(0) as trade_count",
    "more bought than traded": "volume + 1 as buy_volume",
    "low above close": "close_price + 1 as low_price",
    "no market": "'' as canonical_symbol",
    "a value missing": "cast(null as Nullable(Decimal(38, 8))) as quote_volume",
    "before its window": "first_trade_at - toIntervalMillisecond(1) as first_trade_at",
}
# What could be right, and is not.
WRONG = {
    "open": "high_price as open_price",
    "high": "high_price + 1 as high_price",
    "low": "low_price - 1 as low_price",
    "close": "low_price as close_price",
    "volume": "volume + 1 as volume",
    "volume, settled long ago": "volume + 1 as volume, settled_at - toIntervalDay(9) as settled_at",
    "quote volume": "quote_volume + 1 as quote_volume",
    "buy volume": "buy_volume - 1 as buy_volume",
    "trades": "trade_count - 1 as trade_count",
    "first trade": "first_trade_id + 1 as first_trade_id",
    "last trade": "last_trade_id + 1 as last_trade_id",
    "first time": "first_trade_at + toIntervalMillisecond(1) as first_trade_at",
    "last time": "last_trade_at + toIntervalMillisecond(1) as last_trade_at",
}


@dataclass(frozen=True)
class Checks:
    """The SQL of the data tests by table: of a candle alone, and against what it is made from."""

    warehouse: Warehouse
    consistent: dict[str, str]
    equal: dict[str, str]

    def found(self, sql: str, table: str, copy: str) -> int:
        """How many rows a test finds where a query takes the place of one of its tables."""
        database = self.warehouse.database
        self.warehouse.command("drop table if exists copy")
        self.warehouse.command(f"create table copy engine = MergeTree order by tuple() as {copy}")
        sql = sql.replace(f"`{database}`.`{table}`", f"`{database}`.`copy`")
        return int(self.warehouse.query(f"select count() from ({sql})")[0][0])


@pytest.fixture(scope="module")
def settled(warehouse: Warehouse) -> Warehouse:
    """Two minutes of trades, settled, and all data tests passed."""
    start = round(YESTERDAY.timestamp() * 1000)
    trades = [
        Trade(10 + second, start + 1000 * second, Decimal(5 + second * 7 % 11), Decimal(2), "buy")
        for second in range(0, 120, 7)
    ]
    # Trades that had just arrived as they were settled would be left to the next run's tests.
    arrived_at = datetime.now(UTC) - timedelta(minutes=1)
    with connect(warehouse.settings.clickhouse) as client:
        client.insert(
            "bronze_trades_binance",
            [(*trade.bronze_row(trade.trade_id), arrived_at) for trade in trades],
            column_names=(*BRONZE_COLUMNS, "ingestion_timestamp"),
        )
    build(warehouse, "+gold")
    # The first run leaves it to the second to look at what came while it created the tables.
    build(warehouse, "path:models/gold/settled")
    return warehouse


@pytest.fixture(scope="module")
def checks(settled: Warehouse) -> Checks:
    settled.dbt("compile", "--select", "path:models/gold/settled")
    nodes = json.loads((settled.state / "target" / "manifest.json").read_text())["nodes"].values()

    def of_each_table(name: str) -> dict[str, str]:
        return {
            node["attached_node"].split(".")[-1]: node["compiled_code"]
            for node in nodes
            if node["resource_type"] == "test" and node["test_metadata"]["name"] == name
        }

    equal = of_each_table("candles_equal_trades") | of_each_table("candles_equal_minutes")
    return Checks(settled, of_each_table("consistent_candles"), equal)


def build(warehouse: Warehouse, selected: str) -> None:
    warehouse.dbt("build", "--select", selected, "--exclude-resource-type", "unit_test")


def passed_through(warehouse: Warehouse) -> dict[str, datetime]:
    found = warehouse.query(
        "select replaceOne(table_name, 'tests of ', ''), argMax(settled_through, recorded_at)"
        " from settlement_progress where table_name like 'tests of %' group by table_name"
    )
    return {str(table): through for table, through in found}


@pytest.mark.parametrize("table", GOLD_TABLES)
def test_nothing_is_found_in_candles_that_are_right(checks: Checks, table: str) -> None:
    assert checks.found(checks.consistent[table], table, f"select * from {table}") == 0
    assert checks.found(checks.equal[table], table, f"select * from {table}") == 0


@pytest.mark.parametrize("table", GOLD_TABLES)
@pytest.mark.parametrize("change", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_a_candle_that_cannot_be_is_found(checks: Checks, table: str, change: str) -> None:
    wrong = f"select * replace ({change}) from {table}"
    assert checks.found(checks.consistent[table], table, wrong) > 0


@pytest.mark.parametrize("table", GOLD_TABLES)
def test_a_candle_that_a_run_wrote_twice_is_found(checks: Checks, table: str) -> None:
    twice = f"select * from {table} union all select * from {table}"
    assert checks.found(checks.consistent[table], table, twice) > 0


@pytest.mark.parametrize("table", GOLD_TABLES)
@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_a_candle_that_is_not_that_of_its_trades_is_found(
    checks: Checks, table: str, change: str
) -> None:
    wrong = f"select * replace ({change}) from {table}"
    assert checks.found(checks.equal[table], table, wrong) > 0


@pytest.mark.parametrize("table", GOLD_TABLES)
def test_a_candle_that_is_missing_is_found(checks: Checks, table: str) -> None:
    assert checks.found(checks.equal[table], table, f"select * from {table} where false") > 0


@pytest.mark.parametrize("table", GOLD_TABLES)
def test_what_was_tested_long_ago_is_not_read_again(checks: Checks, table: str) -> None:
    later = (
        f"select 'tests of {table}' as table_name, now64(3) + toIntervalHour(1) as settled_through,"
        " now64(3) as recorded_at"
    )
    wrong = f"(select * replace (volume + 1 as volume) from {table})"
    sql = checks.equal[table].replace(f"`{checks.warehouse.database}`.`{table}`", wrong)
    assert checks.found(sql, "settlement_progress", "select * from settlement_progress") > 0
    assert checks.found(sql, "settlement_progress", later) == 0


def test_tests_count_as_passed_only_once_all_of_their_table_did(settled: Warehouse) -> None:
    second_run = settled.query(
        "select max(settled_through) from settlement_progress where table_name = 'ohlcv_1m'"
    )[0][0]
    assert passed_through(settled) == dict.fromkeys(GOLD_TABLES, second_run)
    settled.command(
        "insert into ohlcv_5m select * replace (volume + 1 as volume, now64(3) as settled_at)"
        " from ohlcv_5m final"
    )
    with pytest.raises(TransformError, match="candles_equal_minutes_ohlcv_5m"):
        build(settled, "path:models/gold/settled")
    after = passed_through(settled)
    assert after.pop("ohlcv_5m") == second_run
    assert len(after) == len(GOLD_TABLES) - 1
    assert min(after.values()) > second_run

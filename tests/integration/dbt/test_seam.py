"""Views where settled candles end, and runs that come upon what others left."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from k2.transform import TransformError

from .conftest import GOLD_TABLES, Warehouse
from .reference import Trade

if TYPE_CHECKING:
    from pathlib import Path

    from k2.settings import Settings

ONE = Decimal(1)


def _trade(trade_id: int, time: datetime, price: int = 5) -> Trade:
    return Trade(trade_id, round(time.timestamp() * 1000), Decimal(price), ONE, "buy")


@pytest.fixture(scope="module")
def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="module")
def built(warehouse: Warehouse, now: datetime) -> Warehouse:
    """Settled: two minutes of two days ago. After the run: the second of them again, a third, and
    a minute to come."""
    then = (now - timedelta(days=2)).replace(hour=12, minute=0, second=0)
    warehouse.feed("binance", [_trade(1, then).bronze_row(1)])
    warehouse.feed("binance", [_trade(2, then + timedelta(minutes=1)).bronze_row(2)])
    warehouse.dbt("build", "--exclude-resource-type", "unit_test")
    warehouse.feed(
        "binance",
        [
            _trade(3, then + timedelta(minutes=1), 6).bronze_row(3),
            _trade(4, then + timedelta(minutes=2), 7).bronze_row(4),
            _trade(4, then + timedelta(minutes=2), 7).bronze_row(5),
            _trade(5, now + timedelta(hours=1), 8).bronze_row(6),
        ],
    )
    return warehouse


def _models(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    nodes = manifest["nodes"].values()
    return {node["name"]: node for node in nodes if node["resource_type"] == "model"}


def _view(warehouse: Warehouse, table: str) -> list[tuple[object, ...]]:
    return warehouse.query(
        f"select trade_count, close_price, is_settled from {table}_view order by window_start"
    )


@pytest.fixture(scope="module")
def before_settling(built: Warehouse) -> dict[str, list[tuple[object, ...]]]:
    return {table: _view(built, table) for table in GOLD_TABLES}


@pytest.fixture(scope="module")
def after_settling(
    built: Warehouse, before_settling: object
) -> dict[str, list[tuple[object, ...]]]:
    built.dbt("run")
    return {table: _view(built, table) for table in GOLD_TABLES}


def test_minutes_that_got_trades_after_the_run_are_live_and_each_is_there_once(
    before_settling: dict[str, list[tuple[object, ...]]],
) -> None:
    assert before_settling["ohlcv_1m"] == [(1, 5, 1), (2, 6, 0), (1, 7, 0), (1, 8, 0)]


def test_a_trade_produced_twice_is_one_trade_of_a_live_candle(
    before_settling: dict[str, list[tuple[object, ...]]],
) -> None:
    assert (2, 7, 0) not in before_settling["ohlcv_1m"]


@pytest.mark.parametrize("table", GOLD_TABLES[1:])
def test_longer_windows_are_rolled_up_from_settled_and_live_minutes(
    before_settling: dict[str, list[tuple[object, ...]]], table: str
) -> None:
    assert before_settling[table] == [(4, 7, 0), (1, 8, 0)]


def test_the_next_run_settles_what_has_ended(
    after_settling: dict[str, list[tuple[object, ...]]],
) -> None:
    assert after_settling["ohlcv_1m"] == [(1, 5, 1), (2, 6, 1), (1, 7, 1), (1, 8, 0)]
    for table in GOLD_TABLES[1:]:
        assert after_settling[table] == [(4, 7, 1), (1, 8, 0)]


def test_trades_that_came_without_their_view_are_caught_up_with(
    built: Warehouse, after_settling: object, now: datetime
) -> None:
    built.command("drop view bronze_kraken_to_silver_mv")
    trade = _trade(1, now - timedelta(days=1))
    built.feed("kraken", [(*trade.bronze_row(1)[:2], "XBT/USD", *trade.bronze_row(1)[3:])])
    built.dbt("run")
    assert built.query(
        "select symbol, canonical_symbol from silver_trades where exchange='kraken'"
    ) == [("XBT/USD", "BTC/USD")]
    assert built.query("select trade_count from ohlcv_1m final where exchange='kraken'") == [(1,)]


def test_a_catch_up_that_was_cut_off_is_made_up_for(
    built: Warehouse, after_settling: object, now: datetime
) -> None:
    """The view is there and what it should have caught up with is not: as after a kill."""
    built.command("alter table bronze_binance_to_silver_mv modify comment ''")
    built.command("delete from silver_trades where trade_id = 4 and exchange = 'binance'")
    built.dbt("run", "--select", "silver")
    assert built.query(
        "select count() from silver_trades final where trade_id = 4 and exchange = 'binance'"
    ) == [(1,)]


def test_fresh_sources_pass_and_documentation_is_made(
    built: Warehouse, after_settling: object
) -> None:
    built.dbt("source", "freshness", "--select", "source:bronze.bronze_trades_binance")
    built.dbt("docs", "generate")
    catalog = json.loads((built.state / "target" / "catalog.json").read_text())
    assert "model.k2.ohlcv_1d_view" in catalog["nodes"]


def test_nothing_but_deliberate_commands_rebuilds_a_table_of_trades_or_candles(
    built: Warehouse,
) -> None:
    manifest = json.loads((built.state / "target" / "manifest.json").read_text())
    kept = {
        name for name, node in _models(manifest).items() if node["config"]["full_refresh"] is False
    }
    assert {"silver_trades", "ohlcv_live", "settlement_progress", *GOLD_TABLES} <= kept


def test_every_model_and_column_is_described(built: Warehouse) -> None:
    manifest = json.loads((built.state / "target" / "manifest.json").read_text())
    undescribed = []
    for node in [*manifest["nodes"].values(), *manifest["sources"].values()]:
        if node["resource_type"] not in {"model", "seed", "source"}:
            continue
        table = node.get("alias") or node["identifier"]
        present = built.query(
            "select name from system.columns where database = currentDatabase() "
            f"and table = '{table}' and default_kind != 'MATERIALIZED'"
        )
        assert present, f"{table} is not there"
        described = {name for name, column in node["columns"].items() if column["description"]}
        undescribed += [f"{table}.{name}" for (name,) in present if name not in described]
        undescribed += [] if node["description"] else [table]
    assert undescribed == []


def test_a_failing_dbt_command_is_one_line_of_error(server: Settings, tmp_path: Path) -> None:
    """dbt's asset aliases are missing in a database that was never seeded."""
    nowhere = replace(server.clickhouse, database="never_seeded")
    warehouse = Warehouse(replace(server, clickhouse=nowhere), tmp_path)
    with pytest.raises(TransformError, match="run dbt seed first") as failure:
        warehouse.dbt("run", "--select", "silver_trades", "bronze_binance_to_silver_mv")
    assert "\n" not in str(failure.value)


def test_candles_outlive_the_trades_that_silver_has_dropped(
    built: Warehouse, after_settling: object, now: datetime
) -> None:
    candles = [f"ohlcv_{timeframe}" for timeframe in ("1m", "1d")]
    built.dbt("run")
    before = {table: built.fingerprint()[table] for table in candles}
    for (day,) in built.query("select distinct toDate(ingestion_timestamp) from silver_trades"):
        built.command(f"alter table silver_trades drop partition '{day}'")
    # One more trade of a minute that had two.
    minute = (now - timedelta(days=2)).replace(hour=12, minute=1, second=0)
    built.feed("binance", [_trade(6, minute, 9).bronze_row(7)])
    built.dbt("run-operation", "rewind_settlement")
    built.dbt("build", "--exclude-resource-type", "unit_test")
    assert {table: built.fingerprint()[table] for table in candles} == before

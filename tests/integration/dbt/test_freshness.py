"""Freshness of the sources: how old the newest message of an exchange is, by the wall clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from k2.clickhouse import connect
from k2.transform import TransformError

if TYPE_CHECKING:
    from .conftest import Warehouse


def ingest(warehouse: Warehouse, rows: int, age: timedelta) -> None:
    """Put trades into Bronze that came before now."""
    arrival = f"toDateTime64('{datetime.now(UTC) - age:%Y-%m-%d %H:%M:%S}', 3, 'UTC')"
    warehouse.command(
        "insert into bronze_trades_kraken "
        "(exchange_timestamp, sequence_number, symbol, side, price, quantity, quote_volume, "
        "event_time, kafka_offset, kafka_partition, ingestion_timestamp) "
        f"select {arrival}, number, 'BTC/USD', 'buy', 1, 1, 1, {arrival}, number, 0, {arrival} "
        f"from numbers({rows})"
    )


def freshness(warehouse: Warehouse) -> str:
    return warehouse.dbt(
        "source", "freshness", "--select", "source:bronze.bronze_trades_kraken", "--no-use-colors"
    )


@pytest.fixture(scope="module")
def stale_for_long(warehouse: Warehouse) -> str:
    """What dbt says of a source whose newest message came two days ago."""
    ingest(warehouse, 1000, timedelta(days=2))
    with pytest.raises(TransformError) as failure:
        freshness(warehouse)
    return str(failure.value)


@pytest.fixture(scope="module")
def stale(warehouse: Warehouse, stale_for_long: str) -> str:
    ingest(warehouse, 1, timedelta(minutes=45))
    return freshness(warehouse)


@pytest.fixture(scope="module")
def fresh(warehouse: Warehouse, stale: str) -> str:
    ingest(warehouse, 1, timedelta(0))
    return freshness(warehouse)


def test_a_source_that_is_stale_for_a_day_is_an_error(stale_for_long: str) -> None:
    assert "bronze_trades_kraken" in stale_for_long


def test_a_stale_source_warns_and_does_not_fail(stale: str) -> None:
    assert "WARN freshness of bronze.bronze_trades_kraken" in stale


def test_a_fresh_source_passes(fresh: str) -> None:
    assert "PASS freshness of bronze.bronze_trades_kraken" in fresh


def test_looking_at_the_age_reads_no_rows(warehouse: Warehouse, fresh: str) -> None:
    with connect(warehouse.settings.clickhouse) as client:
        summary = client.query("select max(ingestion_timestamp) from bronze_trades_kraken").summary
    # One row of metadata a part.
    assert int(summary["read_rows"]) < 10

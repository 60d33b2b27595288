"""Rows that go through Spark: what `transfer: scan` gives is what an unload gives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from k2.offload import engine
from k2.offload.audit import audit_table
from k2.offload.unload import VerificationError

from .rows import candle, silver_trade, trade

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import SparkSession

    from k2.offload.plan import Intent
    from k2.offload.schema import Column

    from .conftest import Bench


def test_trades_arrive_row_by_row_from_every_log_partition(bronze: Bench) -> None:
    scanned = bronze.with_table(transfer="scan")
    scanned.insert([trade(n, day=n % 3, kafka_partition=n % 2) for n in range(60)])
    assert scanned.offload().rows == 60
    assert scanned.lake_rows() == scanned.source_rows()
    assert audit_table(scanned.settings, scanned.table).equal


def test_a_second_scan_takes_only_what_is_new(bronze: Bench) -> None:
    scanned = bronze.with_table(transfer="scan")
    scanned.insert([trade(offset) for offset in range(10)])
    scanned.offload()
    scanned.insert([trade(offset) for offset in range(10, 15)])
    assert scanned.offload().rows == 5
    assert scanned.offload().rows == 0
    assert scanned.lake_rows() == scanned.source_rows()


def test_a_trade_produced_twice_is_scanned_once(silver: Bench) -> None:
    scanned = silver.with_table(transfer="scan")
    scanned.insert([silver_trade(n, offset=n, arrival_rank=9) for n in range(8)])
    scanned.insert([silver_trade(n, offset=n + 8, arrival_rank=1) for n in range(8)])
    assert scanned.offload().rows == 8
    assert scanned.lake_rows() == scanned.source_rows()


def test_a_corrected_candle_replaces_the_old_one(gold: Bench) -> None:
    scanned = gold.with_table(transfer="scan")
    scanned.insert([candle(minute, day=day) for minute in range(5) for day in range(2)])
    scanned.offload()
    scanned.insert([candle(3, day=1, settled=60, close="2.5")])
    assert scanned.offload().rows == 5
    assert scanned.lake_rows() == scanned.source_rows()


def test_tables_may_change_between_scan_and_unload(bronze: Bench) -> None:
    scanned = bronze.with_table(transfer="scan")
    scanned.insert([trade(offset) for offset in range(4)])
    scanned.offload()
    bronze.insert([trade(offset) for offset in range(4, 8)])
    bronze.offload()
    assert bronze.lake_rows() == bronze.source_rows()
    assert audit_table(bronze.settings, bronze.table).equal


def test_a_file_that_is_gone_stops_the_scan_before_its_commit(
    bronze: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned = bronze.with_table(transfer="scan")
    scanned.insert([trade(n, day=n % 2) for n in range(20)])
    verify = engine._verify

    def lose_a_file(driver: engine.Driver, columns: Sequence[Column], intent: Intent) -> None:
        next(Path(intent.path.removeprefix("file:")).rglob("*.parquet")).unlink()
        verify(driver, columns, intent)

    monkeypatch.setattr(engine, "_verify", lose_a_file)
    with pytest.raises(VerificationError, match="was planned with 10 rows"):
        scanned.offload()
    assert scanned.snapshots() == []
    monkeypatch.undo()
    assert scanned.offload().rows == 20
    assert scanned.lake_rows() == scanned.source_rows()


def test_nothing_is_left_beside_the_files_of_a_scan(bronze: Bench) -> None:
    scanned = bronze.with_table(transfer="scan")
    scanned.insert([trade(n, day=n % 2) for n in range(20)])
    scanned.offload()
    assert len(scanned.files()) == sum(len(files) for files in scanned.committed_files().values())
    data = Path(scanned.iceberg().location().removeprefix("file:")) / "data"
    assert not list(data.rglob("_*"))


def test_a_session_is_started_only_for_a_scan(
    bronze: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_bench: Bench) -> SparkSession:
        pytest.fail("a Spark session was asked for")

    monkeypatch.setattr(type(bronze), "spark", refuse)
    bronze.insert([trade(1)])
    assert bronze.offload().rows == 1

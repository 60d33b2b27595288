"""What ClickHouse has lost comes back: from its backup, and from Iceberg what came after it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from k2.clickhouse import connect
from k2.ingest.simulation import Simulation
from k2.offload import watermark
from k2.offload.audit import audit_table
from k2.offload.claim import ClaimHeldError, claim
from k2.registry import registry
from k2.restore import RestoreError, restore_table
from k2.trades import feed_simulation
from k2.transform import run_dbt

if TYPE_CHECKING:
    from k2.embedded.stack import Stack

TABLES = ("bronze_trades_kraken", "silver_trades", "ohlcv_1h")
RANKED = ("bronze_trades_kraken", "silver_trades")


def k2(stack: Stack, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "k2.cli", *arguments],
        env={**os.environ, "K2_STATE": str(stack.directory)},
        check=True,
        capture_output=True,
        timeout=120,
    )


def feed(stack: Stack, *, seed: int) -> None:
    simulation = Simulation(seed, trades=2000, hours=3)
    for _ in feed_simulation(stack.settings, registry(), simulation, progress=lambda *_: None):
        pass


def contents(stack: Stack) -> dict[str, Any]:
    """Rows and a sum over all their values, the version of Bronze and Silver included."""
    with connect(stack.settings.clickhouse) as client:
        return {
            table: client.query(
                f"select count(), sum(cityHash64(*{', arrival_rank' if table in RANKED else ''}))"
                f" from {table} final"
            ).result_rows
            for table in TABLES
        }


@pytest.fixture(scope="module")
def before(stack: Stack) -> dict[str, Any]:
    """The tables, all of them in Iceberg; a backup of ClickHouse has the older half."""
    feed(stack, seed=1)
    with connect(stack.settings.clickhouse) as client:
        client.command("backup database k2 to File('monday')")
    feed(stack, seed=2)
    run_dbt(["run"], stack.settings, state=stack.directory / "dbt", on_line=lambda _: None)
    for table in TABLES:
        k2(stack, "offload", table)
    found = contents(stack)
    assert all(rows[0][0] > 0 for rows in found.values())
    return found


def require_whole(stack: Stack, before: dict[str, Any]) -> None:
    assert contents(stack) == before
    for table in TABLES:
        audited = audit_table(stack.settings, registry().table(table))
        assert (audited.equal, audited.waiting_rows) == (True, 0)


def test_rows_that_are_there_stay_one_row(stack: Stack, before: dict[str, Any]) -> None:
    for table in reversed(TABLES):
        restore_table(stack.settings, registry().table(table))
    require_whole(stack, before)


def test_what_is_lost_comes_back_from_iceberg(stack: Stack, before: dict[str, Any]) -> None:
    with connect(stack.settings.clickhouse) as client:
        for table in TABLES:
            client.command(f"truncate table {table} sync")
    k2(stack, "restore", *TABLES)
    require_whole(stack, before)


def test_what_came_after_a_backup_comes_back_from_iceberg(
    stack: Stack, before: dict[str, Any]
) -> None:
    with connect(stack.settings.clickhouse, database="default") as client:
        client.command("drop database k2 sync")
        client.command("restore database k2 from File('monday')")
    restored = contents(stack)
    assert all(0 < restored[table][0][0] < before[table][0][0] for table in RANKED)
    k2(stack, "restore")
    require_whole(stack, before)


def test_days_that_retention_dropped_stay_dropped(stack: Stack, before: dict[str, Any]) -> None:
    with (
        connect(stack.settings.clickhouse) as client,
        watermark.connect(stack.settings.postgres) as connection,
    ):
        (day,) = client.query(
            "select distinct toDate(ingestion_timestamp) from bronze_trades_kraken"
        ).result_columns[0]
        client.command("truncate table bronze_trades_kraken sync")
        connection.execute(
            "insert into retention_drops (table_name, ingested_on, checked_at, partitions,"
            " positions, newest_block, state)"
            " values ('bronze_trades_kraken', %s, now(), '[]', '[]', 0, 'dropped')",
            (day,),
        )
        restore_table(stack.settings, registry().table("bronze_trades_kraken"))
        assert client.command("select count() from bronze_trades_kraken") == 0
        connection.execute("delete from retention_drops")
    restore_table(stack.settings, registry().table("bronze_trades_kraken"))
    require_whole(stack, before)


def test_while_an_offload_goes_on_nothing_is_restored(stack: Stack, before: dict[str, Any]) -> None:
    with (
        claim(stack.settings.postgres, "silver_trades"),
        pytest.raises(ClaimHeldError, match="is being offloaded by"),
    ):
        restore_table(stack.settings, registry().table("silver_trades"))


def test_a_table_that_would_hold_rows_twice_is_refused(
    stack: Stack, before: dict[str, Any]
) -> None:
    table = registry().table("ohlcv_1h")
    with connect(stack.settings.clickhouse) as client:
        client.command("rename table ohlcv_1h to ohlcv_1h_elsewhere")
        with pytest.raises(RestoreError, match="is not there; run 'k2 init' first"):
            restore_table(stack.settings, table)
        client.command(
            "create table ohlcv_1h as ohlcv_1h_elsewhere engine = MergeTree order by window_start"
        )
        client.command("insert into ohlcv_1h select * from ohlcv_1h_elsewhere")
        with pytest.raises(RestoreError, match="so they would be there twice"):
            restore_table(stack.settings, table)
        client.command("drop table ohlcv_1h sync")
        client.command("rename table ohlcv_1h_elsewhere to ohlcv_1h")
    require_whole(stack, before)


def test_a_backup_cannot_be_written_elsewhere(stack: Stack) -> None:
    with (
        connect(stack.settings.clickhouse) as client,
        pytest.raises(DatabaseError, match="is not allowed for backups"),
    ):
        client.command(f"backup database k2 to File('{stack.directory}/lake/backup')")
    assert not (stack.directory / "lake" / "backup").exists()

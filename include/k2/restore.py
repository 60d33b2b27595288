"""Rows back from Iceberg into ClickHouse, after ClickHouse has lost them.

What is there already stays one row: every table of the medallion keeps one row of a key. Places in
the log and times of ingestion and settling come back as they were, so offloads and audits go on.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from k2.clickhouse import connect, quote_identifier
from k2.errors import K2Error
from k2.logs import get_logger
from k2.offload.catalog import load_table, open_catalog
from k2.offload.claim import claim
from k2.offload.drops import State
from k2.offload.source import INGESTION, count_rows
from k2.offload.watermark import connect as connect_to_watermarks

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from k2.registry import Table
    from k2.settings import Settings

# What Iceberg does not have of Silver, as dbt makes it: dbt_project/macros/trades.sql.
_RANK: Final = "arrival_rank"
_RANK_SQL: Final = (
    "bitNot(bitShiftLeft(toUInt128(toUnixTimestamp64Milli(ingestion_timestamp)), 80)"
    " + bitShiftLeft(toUInt128(kafka_offset), 16) + toUInt128(kafka_partition))"
)


class RestoreError(K2Error):
    """A table cannot be brought back; nothing was added to it."""


def restore_table(settings: Settings, table: Table) -> int:
    """Insert the rows of an Iceberg table into its table in ClickHouse; how many were read.

    Days that retention dropped from ClickHouse stay dropped. The table's claim is held meanwhile,
    so no offload runs. Killed, it can be run again.

    Raises:
        ClaimHeldError: an offload of the table is going on.
        RestoreError: rows would be there twice.
        OffloadError: the table is not in the Iceberg catalog.
        StackError: a service cannot be used.
    """
    began = time.monotonic()
    with claim(settings.postgres, table.name), connect(settings.clickhouse) as client:
        _require_keyed(client, table)
        scan = load_table(open_catalog(settings), settings, table.name).scan()
        restoring = quote_identifier(f"restoring_{table.name}")
        client.command(f"drop table if exists {restoring} sync")
        client.command(
            f"create table {restoring} as {quote_identifier(table.name)}"
            " engine = MergeTree order by tuple()"
        )
        with scan.to_arrow_batch_reader() as batches:
            names = list(batches.schema.names)
            rows = 0
            for batch in batches:
                client.insert_arrow(f"restoring_{table.name}", batch)
                rows += batch.num_rows
        _insert(client, table, restoring, names, _dropped_days(settings, table))
        client.command(f"drop table {restoring} sync")
    get_logger(table=table.name).info(
        "restored", rows=rows, seconds=round(time.monotonic() - began, 3)
    )
    return rows


def _require_keyed(client: Client, table: Table) -> None:
    found = client.query(
        "select engine from system.tables"
        " where database = {database:String} and name = {name:String}",
        parameters={"database": client.database, "name": table.name},
    ).result_rows
    if not found:
        raise RestoreError(f"{table.name} is not there; run 'k2 init' first")
    engine = str(found[0][0])
    keyed = engine.endswith("ReplacingMergeTree")
    if not keyed and count_rows(client, quote_identifier(table.name), "1"):
        raise RestoreError(
            f"{table.name} has rows and its engine is {engine}, so they would be there twice; "
            "empty it first"
        )


def _insert(
    client: Client, table: Table, restoring: str, names: list[str], dropped: list[str]
) -> None:
    """From the table at its side into the table itself; its views pass the rows on."""
    columns = [quote_identifier(name) for name in names]
    values = list(columns)
    if _is_plain_column(client, table, _RANK):
        columns.append(_RANK)
        values.append(_RANK_SQL)
    where = "1"
    if dropped:
        days = ", ".join(f"toDate('{day}')" for day in dropped)
        where = f"toDate({INGESTION}) not in ({days})"
    client.command(
        f"insert into {quote_identifier(table.name)} ({', '.join(columns)})"
        f" select {', '.join(values)} from {restoring} where {where}",
        # Years of partitions may come at once.
        settings={"max_partitions_per_insert_block": 0},
    )


def _is_plain_column(client: Client, table: Table, name: str) -> bool:
    """Whether a table has a column that an insert must give a value."""
    return bool(
        client.command(
            "select count() from system.columns where database = {database:String}"
            " and table = {table:String} and name = {name:String} and default_kind = ''",
            parameters={"database": client.database, "table": table.name, "name": name},
        )
    )


def _dropped_days(settings: Settings, table: Table) -> list[str]:
    with connect_to_watermarks(settings.postgres) as connection:
        rows = connection.execute(
            "select distinct ingested_on::text as day from retention_drops"
            " where table_name = %s and state = %s order by day",
            (table.name, State.DROPPED.value),
        ).fetchall()
    return [row["day"] for row in rows]

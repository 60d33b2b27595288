"""The way of the trades through ClickHouse: ingestion, Silver, Gold, dead letters, quality, sizes.

Each query reads what the last minute or hour brought, or the metadata of parts: a table that grows
makes none of them dearer.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from k2.clickhouse import quote_identifier, quote_string
from k2.ingest.dead_letters import count_recent_reasons
from k2.monitoring import metrics
from k2.quality import read_checked_at, read_findings
from k2.registry import Layer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clickhouse_connect.driver.client import Client

    from k2.monitoring.metrics import Sample
    from k2.registry import Registry

WINDOW_SECONDS: Final = 60
_STATUSES: Final = ("warn", "error")
_RECENT_CANDLES: Final = """
select exchange, canonical_symbol, window_start, close_price, volume
from ohlcv_1m_view
where window_start >= now() - toIntervalMinute(5)
"""


def read_ingestion(client: Client, registry: Registry) -> Iterator[Sample]:
    """How fast trades reach Bronze, and when the last one did."""
    for exchange in registry.exchanges:
        newest, count, _ = _last_minute(client, exchange.name, _bronze(exchange.name))
        yield metrics.INGESTION_RATE.of(count / WINDOW_SECONDS, exchange=exchange.name)
        if newest:
            yield metrics.INGESTED.of(newest / 1000, exchange=exchange.name)


def read_silver(client: Client, registry: Registry) -> Iterator[Sample]:
    """How fast trades become Silver, and by how much Silver is behind Bronze."""
    for exchange in registry.exchanges:
        of_exchange = f"exchange = {quote_string(exchange.name)}"
        newest, count, reached = _last_minute(client, exchange.name, "silver_trades", of_exchange)
        yield metrics.SILVER_RATE.of(count / WINDOW_SECONDS, exchange=exchange.name)
        # Read after Bronze's newest, so Silver may be ahead of it.
        behind = min(max(0, newest - reached) / 1000, WINDOW_SECONDS)
        yield metrics.SILVER_LAG.of(behind, exchange=exchange.name)


def read_gold(client: Client, registry: Registry) -> Iterator[Sample]:
    """How far candles are settled, how new they are, and how new the live ones."""
    for table in registry.layer(Layer.GOLD):
        # The end of the primary key; a settlement that is rewound shows again once it is done.
        settled = client.query(
            "select dateDiff('millisecond', settled_through, now64(3)) / 1000"
            " from settlement_progress where table_name = {table:String}"
            " order by settled_through desc limit 1",
            parameters={"table": table.name},
        ).result_rows
        for (seconds,) in settled:
            yield metrics.GOLD_LAG.of(seconds, table=table.name)
        newest = _newest(client, table.partition.column, quote_identifier(table.name))
        if newest:
            yield metrics.CANDLE.of(newest / 1000, table=table.name)
    live = _newest(client, "ingestion_timestamp", "ohlcv_live")
    if live:
        yield metrics.LIVE.of(live / 1000)


def read_query(client: Client) -> Iterator[Sample]:
    """How long a reader of candles waits."""
    began = time.perf_counter()
    client.query(_RECENT_CANDLES)
    yield metrics.QUERY_SECONDS.of(time.perf_counter() - began, query="recent_candles")


def read_dead_letters(client: Client) -> Iterator[Sample]:
    """The dead letters of the last hour, by reason."""
    reasons = count_recent_reasons(client, client.database or "", hours=1)
    for (exchange, reason), count in reasons.items():
        yield metrics.DEAD_LETTERS.of(count, exchange=exchange, reason=reason)


def read_quality(client: Client) -> Iterator[Sample]:
    """What the newest checks of each layer found."""
    findings = read_findings(client)
    for layer, checked_at in read_checked_at(client).items():
        yield metrics.CHECKED.of(checked_at, layer=layer)
        for status in _STATUSES:
            count = sum((one.layer, one.status) == (layer, status) for one in findings)
            yield metrics.FINDINGS.of(count, layer=layer, status=status)
    for one in findings:
        yield metrics.FINDING.of(
            one.value,
            layer=one.layer,
            status=one.status,
            check=one.check_name,
            exchange=one.exchange,
            symbol=one.symbol,
        )


def read_sizes(client: Client) -> Iterator[Sample]:
    """Rows and bytes of every table in ClickHouse."""
    rows = client.query(
        "select table, sum(rows), sum(bytes_on_disk) from system.parts"
        " where database = {database:String} and active group by table order by table",
        parameters={"database": client.database},
    ).result_rows
    for table, count, size in rows:
        yield metrics.TABLE_ROWS.of(count, table=table)
        yield metrics.TABLE_BYTES.of(size, table=table)


def read_disks(client: Client) -> Iterator[Sample]:
    """The disks that ClickHouse writes to."""
    disks = client.query("select name, free_space, total_space from system.disks").result_rows
    for name, free, size in disks:
        yield metrics.DISK_FREE.of(free, disk=f"clickhouse {name}")
        yield metrics.DISK_SIZE.of(size, disk=f"clickhouse {name}")


def _bronze(exchange: str) -> str:
    return quote_identifier(f"bronze_trades_{exchange}")


def _last_minute(
    client: Client, exchange: str, table: str, condition: str = "1"
) -> tuple[int, int, int]:
    """Bronze's newest arrival, the table's arrivals of the last minute, and its newest one.

    Arrivals in milliseconds since 1970, 0 for none. The table's newest is looked for in the minute
    before Bronze's, which its parts by day and an index find.
    """
    newest = _newest(client, "ingestion_timestamp", _bronze(exchange))
    if not newest:
        return 0, 0, 0
    ((count, reached),) = client.query(
        f"select countIf(ingestion_timestamp > now64(3) - toIntervalSecond({WINDOW_SECONDS})),"
        f" toUnixTimestamp64Milli(max(ingestion_timestamp)) from {table} where {condition}"
        " and ingestion_timestamp >="
        f" fromUnixTimestamp64Milli({newest}, 'UTC') - toIntervalSecond({WINDOW_SECONDS})"
    ).result_rows
    return newest, count, reached


def _newest(client: Client, column: str, table: str) -> int:
    """The highest time of a column that a table is partitioned by, in milliseconds; 0 for none.

    ClickHouse has it in the metadata of the parts.
    """
    ((newest,),) = client.query(
        f"select toUnixTimestamp64Milli(toDateTime64(max({quote_identifier(column)}), 3, 'UTC'))"
        f" from {table}"
    ).result_rows
    return int(newest)

"""Where every table stands: its watermark, what waits to be offloaded, its last batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from k2.clickhouse import connect, quote_identifier
from k2.offload import watermark
from k2.offload.cursor import beyond_sql, parse_token
from k2.offload.plan import source_sql
from k2.registry import OffsetCursor

if TYPE_CHECKING:
    import datetime as dt

    from clickhouse_connect.driver.client import Client

    from k2.registry import Registry, Table
    from k2.settings import Settings


@dataclass(frozen=True)
class TableStatus:
    """One table. Lag: rows beyond the watermark, and the age of the oldest of them in seconds."""

    table: str
    layer: str
    watermark: str | None
    watermark_text: str | None
    lag_rows: int
    lag_seconds: float
    last_batch: str | None
    last_rows: int | None
    last_committed_at: dt.datetime | None
    holder: str | None


def table_statuses(settings: Settings, registry: Registry) -> list[TableStatus]:
    """The status of every table of the registry, in its order.

    Raises:
        StackError: ClickHouse or PostgreSQL cannot be used.
    """
    with connect(settings.clickhouse) as client, watermark.connect(settings.postgres) as postgres:
        rows = postgres.execute(
            """
            select w.table_name, w.token, w.holder, b.batch, b.row_count, b.committed_at
            from offload_watermarks as w
            left join lateral (
                select batch, row_count, committed_at
                from offload_batches
                where table_name = w.table_name
                order by recorded_at desc
                limit 1
            ) as b on true
            """
        ).fetchall()
        known = {row["table_name"]: row for row in rows}
        return [_status(client, table, known.get(table.name, {})) for table in registry.tables]


def _status(client: Client, table: Table, row: dict[str, Any]) -> TableStatus:
    text = row.get("token")
    token = None if text is None else parse_token(text, table.cursor)
    arrival = "ingestion_timestamp" if isinstance(table.cursor, OffsetCursor) else None
    arrival = quote_identifier(arrival or table.cursor.columns[0])
    lag_rows, lag_seconds = client.query(
        f"select count(), if(count() = 0, 0, dateDiff('millisecond', min({arrival}), now64(3))"
        f" / 1000) from {source_sql(client, table)} where {beyond_sql(table.cursor, token)}"
    ).result_rows[0]
    return TableStatus(
        table=table.name,
        layer=table.layer.value,
        watermark=text,
        watermark_text=None if token is None else token.describe(),
        lag_rows=lag_rows,
        lag_seconds=lag_seconds,
        last_batch=row.get("batch"),
        last_rows=row.get("row_count"),
        last_committed_at=row.get("committed_at"),
        holder=row.get("holder"),
    )

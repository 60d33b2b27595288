"""Where every table stands: watermark, what waits to be offloaded, last batch, retention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from k2.clickhouse import connect, quote_identifier
from k2.errors import K2Error
from k2.offload import drops, watermark
from k2.offload.cursor import beyond_sql, parse_token
from k2.offload.drops import Reason
from k2.offload.history import TableHistory, read_histories
from k2.offload.retention import RetentionError, past_days
from k2.offload.source import INGESTION, source_sql, versions_sql
from k2.registry import OffsetCursor

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping

    from clickhouse_connect.driver.client import Client

    from k2.offload.cursor import Token
    from k2.registry import Registry, Table
    from k2.settings import Settings

# The sorting keys of so many rows fit into memory, to tell apart which are one row in the end.
DEDUPLICATED_ROWS = 2_000_000


class LagError(K2Error):
    """The rows that wait cannot be told from so few reads."""


@dataclass(frozen=True)
class Lag:
    """Rows beyond a watermark, the age of the oldest of them in seconds, and its day in UTC."""

    rows: int
    seconds: float
    oldest: dt.date | None


@dataclass(frozen=True)
class TableStatus:
    """One table. Lag: rows beyond the watermark, and the age of the oldest of them in seconds.

    Retention: how many days of ClickHouse are past it, and why they are still there.
    """

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
    retention: str | None


def table_statuses(settings: Settings, registry: Registry, *, today: dt.date) -> list[TableStatus]:
    """The status of every table of the registry, in its order; `today` is a day of UTC.

    Raises:
        StackError: ClickHouse or PostgreSQL cannot be used.
    """
    with connect(settings.clickhouse) as client, watermark.connect(settings.postgres) as postgres:
        known = read_histories(postgres)
        kept = drops.read_reasons(postgres)
        return [
            _status(
                client,
                table,
                known.get(table.name, TableHistory()),
                kept.get(table.name, {}),
                today,
            )
            for table in registry.tables
        ]


def read_lag(
    client: Client, table: Table, token: Token | None, *, at_most: int | None = None
) -> Lag:
    """The rows of a table beyond a token; of millions, every version of a row counts.

    It costs what waits: FINAL alone would merge all rows between the sorting keys of the new ones,
    which is most of a table whose markets all have some. `at_most` bounds, about, the rows that are
    read: of a longer lag it tells a part.

    Raises:
        LagError: within that bound most rows were not new ones, so that it tells nothing.
    """
    beyond = beyond_sql(table.cursor, token)
    versions = versions_sql(client, table)
    lag = _lag(client, table, versions, beyond, at_most)
    if not 0 < lag.rows <= DEDUPLICATED_ROWS:
        return lag
    key = ", ".join(quote_identifier(name) for name in table.order)
    keys = f"({key}) in (select {key} from {versions} where {beyond})"
    return _lag(client, table, source_sql(client, table), f"{beyond} and {keys}", None)


def _lag(client: Client, table: Table, source: str, where: str, at_most: int | None) -> Lag:
    arrival = INGESTION if isinstance(table.cursor, OffsetCursor) else table.cursor.columns[0]
    arrival = quote_identifier(arrival)
    bound = {"max_rows_to_read": at_most, "read_overflow_mode": "break"} if at_most else {}
    result = client.query(
        f"select count(), if(count() = 0, 0, dateDiff('millisecond', min({arrival}), now64(3))"
        f" / 1000), toDate(min({arrival})) from {source} where {where}",
        settings=bound,
    )
    rows, seconds, oldest = result.result_rows[0]
    if at_most is not None and 2 * rows < at_most <= int(result.summary["read_rows"]):
        raise LagError(
            f"{table.name}: {at_most} rows were read and too few of them are new ones to tell its "
            "lag; a producer should send each market to one partition of the topic"
        )
    return Lag(rows, seconds, oldest if rows else None)


def _status(
    client: Client,
    table: Table,
    history: TableHistory,
    kept: Mapping[dt.date, Reason],
    today: dt.date,
) -> TableStatus:
    token = None if history.token is None else parse_token(history.token, table.cursor)
    lag = read_lag(client, table, token)
    last = history.last_batch
    return TableStatus(
        table=table.name,
        layer=table.layer.value,
        watermark=history.token,
        watermark_text=None if token is None else token.describe(),
        lag_rows=lag.rows,
        lag_seconds=lag.seconds,
        last_batch=last.name if last else None,
        last_rows=last.rows if last else None,
        last_committed_at=last.committed_at if last else None,
        holder=history.holder,
        retention=_retention(client, table, today, lag.oldest, kept),
    )


def _retention(
    client: Client,
    table: Table,
    today: dt.date,
    oldest_waiting: dt.date | None,
    kept: Mapping[dt.date, Reason],
) -> str | None:
    """How many days are past the retention, and why they are still there."""
    if table.retention_days is None:
        return None
    try:
        past = past_days(client, table, today)
    except RetentionError:
        return "not partitioned by ingestion day"
    if not past:
        return "ok"
    reasons = {kept[day] for day in past if day in kept} - {Reason.NOT_OFFLOADED}
    # Seen here and now: where nothing is offloaded, the step may not have run for as long.
    if oldest_waiting is not None and oldest_waiting <= past[-1]:
        reasons.add(Reason.NOT_OFFLOADED)
    days = f"{len(past)} day{'s' if len(past) > 1 else ''} past"
    named = ", ".join(reason.value for reason in Reason if reason in reasons)
    return f"{days}, kept: {named}" if named else f"{days}, due with the next run"

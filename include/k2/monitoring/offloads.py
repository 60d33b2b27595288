"""How far each table's offload is and how it goes: from PostgreSQL, and the lag from ClickHouse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from k2.monitoring import metrics
from k2.offload.cursor import parse_token
from k2.offload.history import read_audits
from k2.status import read_lag

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Mapping

    from clickhouse_connect.driver.client import Client
    from psycopg import Connection

    from k2.monitoring.metrics import Metric, Sample
    from k2.offload.history import TableHistory
    from k2.registry import Registry, Table

# Where nothing is offloaded any more, a scrape still reads no more rows of a table than this.
LAG_ROWS_READ: Final = 20_000_000


def read_offloads(registry: Registry, histories: Mapping[str, TableHistory]) -> Iterator[Sample]:
    """What PostgreSQL knows of the offloads of the registry's tables."""
    for table in registry.tables:
        history = histories.get(table.name)
        if history is None:
            continue
        labels = labels_of(table)
        totals = history.totals
        yield metrics.CLAIM_HELD.of(history.holder is not None, **labels)
        yield metrics.ROWS.of(totals.rows, **labels)
        yield metrics.BYTES.of(totals.bytes, **labels)
        yield metrics.BATCHES.of(totals.batches, **labels)
        yield metrics.BUSY.of(totals.seconds, **labels)
        yield metrics.SUCCESSES.of(totals.successes, **labels)
        yield metrics.FAILURES.of(totals.failures, **labels)
        yield from _times(
            {
                metrics.SUCCEEDED: totals.succeeded_at,
                metrics.FAILED: totals.failed_at,
                metrics.CLAIMED: history.claimed_at,
                metrics.LEASE: history.lease_until,
            },
            labels,
        )
        last = history.last_batch
        if last is not None:
            yield metrics.LAST_ROWS.of(last.rows, **labels)
            yield metrics.LAST_BYTES.of(last.bytes, **labels)
            yield metrics.LAST_SECONDS.of(last.seconds, **labels)
            yield metrics.LAST_COMMIT.of(last.committed_at.timestamp(), **labels)
            if last.seconds:
                yield metrics.LAST_RATE.of(last.rows / last.seconds, **labels)


def read_differences(
    connection: Connection[dict[str, Any]], registry: Registry
) -> Iterator[Sample]:
    """What the last audits of the registry's tables have left."""
    audits = read_audits(connection)
    for table in registry.tables:
        state = audits.get(table.name)
        if state is not None:
            yield metrics.DIFFERENCES.of(state.differences, **labels_of(table))
            yield from _times({metrics.AUDITED: state.audited_at}, labels_of(table))


def read_waiting(
    client: Client, table: Table, history: TableHistory | None, *, rows_read: int = LAG_ROWS_READ
) -> Iterator[Sample]:
    """The rows that wait for their offload. They cost what they are, up to `rows_read`."""
    text = None if history is None else history.token
    token = None if text is None else parse_token(text, table.cursor)
    lag = read_lag(client, table, token, at_most=rows_read)
    yield metrics.LAG_ROWS.of(lag.rows, **labels_of(table))
    yield metrics.LAG_SECONDS.of(lag.seconds, **labels_of(table))


def labels_of(table: Table) -> dict[str, str]:
    """The labels of a table's metrics."""
    return {"layer": table.layer.value, "table": table.name}


def _times(
    times: Mapping[Metric, dt.datetime | None], labels: Mapping[str, str]
) -> Iterator[Sample]:
    for metric, time in times.items():
        if time is not None:
            yield metric.of(time.timestamp(), **labels)

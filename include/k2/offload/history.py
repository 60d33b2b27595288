"""What PostgreSQL knows of each table's offloads and audits, in a few rows a table.

Nothing here looks through a history, so that it can be asked as often as one likes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datetime as dt

    from psycopg import Connection


@dataclass(frozen=True)
class LastBatch:
    """The newest batch of a table; seconds from plan to commit, 0 where the start is unknown."""

    name: str
    rows: int
    bytes: int
    seconds: float
    committed_at: dt.datetime


@dataclass(frozen=True)
class Totals:
    """All batches of a table, and how its runs ended. A success may have had nothing to do."""

    batches: int = 0
    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0
    successes: int = 0
    failures: int = 0
    succeeded_at: dt.datetime | None = None
    failed_at: dt.datetime | None = None


@dataclass(frozen=True)
class TableHistory:
    """One table. Times are UTC; those of claim and lease are of the claim that is held now."""

    token: str | None = None
    holder: str | None = None
    claimed_at: dt.datetime | None = None
    lease_until: dt.datetime | None = None
    last_batch: LastBatch | None = None
    totals: Totals = Totals()


@dataclass(frozen=True)
class AuditState:
    """When partitions of a table were last audited, and how many differ as of their last audit."""

    audited_at: dt.datetime | None
    differences: int


def read_histories(connection: Connection[dict[str, Any]]) -> dict[str, TableHistory]:
    """Every table that was ever claimed, by its name."""
    rows = connection.execute(
        """
        select
            w.table_name, w.token, w.holder, w.claimed_at, w.lease_until,
            b.batch, b.row_count, b.byte_count, b.committed_at,
            greatest(extract(epoch from b.committed_at - b.started_at), 0)::float as batch_seconds,
            t.batches, t.row_count as total_rows, t.byte_count as total_bytes, t.seconds,
            t.successes, t.failures, t.succeeded_at, t.failed_at
        from offload_watermarks as w
        left join offload_totals as t using (table_name)
        left join lateral (
            select batch, row_count, byte_count, started_at, committed_at
            from offload_batches
            where table_name = w.table_name
            order by recorded_at desc
            limit 1
        ) as b on true
        """
    ).fetchall()
    return {row["table_name"]: _history(row) for row in rows}


def read_last_run(connection: Connection[dict[str, Any]], table: str) -> tuple[dict[str, Any], ...]:
    """The batches of a table's newest run, as JSON takes them; none if nothing was new."""
    return tuple(
        connection.execute(
            """
            select
                batch, row_count as rows, file_count as files, byte_count as bytes,
                greatest(extract(epoch from committed_at - started_at), 0)::float as seconds,
                step_seconds
            from offload_batches
            inner join offload_watermarks using (table_name, epoch)
            where table_name = %s
            order by recorded_at
            """,
            (table,),
        ).fetchall()
    )


def read_audits(connection: Connection[dict[str, Any]]) -> dict[str, AuditState]:
    """The audits of every table that was ever claimed, by its name."""
    rows = connection.execute(
        """
        select
            table_name,
            (
                select max(audited_at) from audits as a where a.table_name = w.table_name
            ) as audited_at,
            (
                select count(*) from audit_differences as d where d.table_name = w.table_name
            ) as differences
        from offload_watermarks as w
        """
    ).fetchall()
    return {row["table_name"]: AuditState(row["audited_at"], row["differences"]) for row in rows}


def _history(row: dict[str, Any]) -> TableHistory:
    held = row["holder"] is not None
    return TableHistory(
        token=row["token"],
        holder=row["holder"],
        claimed_at=row["claimed_at"] if held else None,
        lease_until=row["lease_until"] if held else None,
        last_batch=None
        if row["batch"] is None
        else LastBatch(
            row["batch"],
            row["row_count"],
            row["byte_count"],
            row["batch_seconds"],
            row["committed_at"],
        ),
        totals=Totals()
        if row["batches"] is None
        else Totals(
            row["batches"],
            row["total_rows"],
            row["total_bytes"],
            row["seconds"],
            row["successes"],
            row["failures"],
            row["succeeded_at"],
            row["failed_at"],
        ),
    )

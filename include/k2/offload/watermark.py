"""Watermarks in PostgreSQL: what is known of each table, its batch history, and its audits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from k2.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from k2.settings import Postgres

MIGRATIONS = Path(__file__).resolve().parents[2] / "postgres"
DATABASE = "k2"


@dataclass(frozen=True)
class Watermark:
    """What PostgreSQL knows of a table: the token's copy and the batch under way.

    `table_uuid` is that of the Iceberg table which the token was read from. `committed`: the
    history has the batch of the token; without a UUID, any batch.
    """

    token: str | None
    intent: dict[str, Any] | None
    table_uuid: str | None = None
    committed: bool = False


@dataclass(frozen=True)
class Batch:
    """A committed batch, as the history keeps it. Times are UTC."""

    name: str
    lower_token: str | None
    upper_token: str
    partitions: list[dict[str, Any]]
    rows: int
    files: int
    bytes: int
    started_at: datetime
    committed_at: datetime
    snapshot_id: int


def connect(postgres: Postgres) -> psycopg.Connection[dict[str, Any]]:
    """A connection to the watermarks, in autocommit mode.

    Raises:
        StackError: PostgreSQL does not answer or refuses the login.
    """
    try:
        return psycopg.connect(
            postgres.conninfo(DATABASE),
            autocommit=True,
            row_factory=dict_row,
            connect_timeout=10,
            options="-c timezone=UTC",
        )
    except psycopg.OperationalError as error:
        reason = " ".join(str(error).split())
        raise StackError(
            f"PostgreSQL at {postgres.host}:{postgres.port} cannot be used: {reason}"
        ) from error


def migrate(connection: psycopg.Connection[dict[str, Any]]) -> None:
    """Create what is missing; every migration can be run again."""
    for migration in sorted(MIGRATIONS.glob("*.sql")):
        connection.execute(migration.read_bytes())


def unaudited_partitions(connection: psycopg.Connection[dict[str, Any]], table: str) -> list[str]:
    """The Iceberg partitions that batches wrote since those partitions were last found equal."""
    rows = connection.execute(
        """
        with written as (
            select plan ->> 'partition' as partition, max(recorded_at) as recorded_at
            from offload_batches, jsonb_array_elements(partitions) as plan
            where table_name = %(table)s
            group by plan ->> 'partition'
        ),
        audited as (
            select partition, max(audited_at) as audited_at
            from audits
            where table_name = %(table)s and equal
            group by partition
        )
        select partition
        from written left join audited using (partition)
        where recorded_at > coalesce(audited_at, '-infinity')
        order by partition
        """,
        {"table": table},
    ).fetchall()
    return [row["partition"] for row in rows]


def time_spent(connection: psycopg.Connection[dict[str, Any]]) -> dict[str, tuple[int, float]]:
    """Rows offloaded and seconds taken by all batches of each table."""
    rows = connection.execute(
        "select table_name, sum(row_count)::bigint as row_count,"
        " sum(extract(epoch from committed_at - started_at))::float as seconds"
        " from offload_batches group by table_name"
    ).fetchall()
    return {row["table_name"]: (row["row_count"], row["seconds"]) for row in rows}


def current_time(connection: psycopg.Connection[dict[str, Any]]) -> datetime:
    """The time by PostgreSQL's clock, which dates batches and audits."""
    (row,) = connection.execute("select clock_timestamp() as now").fetchall()
    now: datetime = row["now"]
    return now


def record_audit(
    connection: psycopg.Connection[dict[str, Any]],
    audited_at: datetime,
    partitions: Sequence[tuple[str, str, int, int, bool]],
) -> None:
    """Write down audited partitions: table, partition, rows in ClickHouse and Iceberg, equal."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            "insert into audits"
            " (audited_at, table_name, partition, clickhouse_rows, iceberg_rows, equal)"
            " values (%s, %s, %s, %s, %s, %s)",
            [(audited_at, *partition) for partition in partitions],
        )


def read_watermark(connection: psycopg.Connection[dict[str, Any]], table: str) -> Watermark:
    """What PostgreSQL knows of a table; nothing, when it was never claimed."""
    row = connection.execute(
        """
        select
            token,
            intent,
            table_uuid,
            exists(
                select from offload_batches as b
                where b.table_name = w.table_name
                    and (w.table_uuid is null or b.upper_token = w.token)
            ) as committed
        from offload_watermarks as w
        where table_name = %s
        """,
        (table,),
    ).fetchone()
    return Watermark(**row) if row else Watermark(None, None)

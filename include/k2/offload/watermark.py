"""Watermarks in PostgreSQL: what is known of each table, its batch history, and its audits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from k2.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
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
    """A committed batch, as the history keeps it. Times are UTC.

    `step_seconds` of plan, unload, verification and commit are unknown of a run that died.
    """

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
    step_seconds: Mapping[str, float] | None = None


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


def record_batch(
    connection: psycopg.Connection[dict[str, Any]], table: str, epoch: int, batch: Batch
) -> None:
    """Add a committed batch to the history and to the table's totals; only once."""
    connection.execute(
        """
        with added as (
            insert into offload_batches (
                table_name, batch, epoch, lower_token, upper_token, partitions, row_count,
                file_count, byte_count, started_at, committed_at, snapshot_id, step_seconds
            ) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            on conflict do nothing
            returning table_name, row_count, byte_count, committed_at - started_at as taken
        )
        insert into offload_totals as totals (table_name, batches, row_count, byte_count, seconds)
        select table_name, 1, row_count, byte_count, greatest(extract(epoch from taken), 0)
        from added
        on conflict (table_name) do update set
            batches = totals.batches + excluded.batches,
            row_count = totals.row_count + excluded.row_count,
            byte_count = totals.byte_count + excluded.byte_count,
            seconds = totals.seconds + excluded.seconds
        """,
        (
            table,
            batch.name,
            epoch,
            batch.lower_token,
            batch.upper_token,
            json.dumps(batch.partitions),
            batch.rows,
            batch.files,
            batch.bytes,
            batch.started_at,
            batch.committed_at,
            batch.snapshot_id,
            None if batch.step_seconds is None else json.dumps(batch.step_seconds),
        ),
    )


def record_end(
    connection: psycopg.Connection[dict[str, Any]], table: str, *, success: bool
) -> None:
    """Count a run of a table's offload that has ended, well or with an error."""
    counter: LiteralString = "successes" if success else "failures"
    time: LiteralString = "succeeded_at" if success else "failed_at"
    connection.execute(
        f"insert into offload_totals as totals (table_name, {counter}, {time})"
        f" values (%s, 1, now()) on conflict (table_name) do update"
        f" set {counter} = totals.{counter} + 1, {time} = excluded.{time}",
        (table,),
    )


def record_audit(
    connection: psycopg.Connection[dict[str, Any]],
    audited_at: datetime,
    table: str,
    partitions: Sequence[tuple[str, int, int, bool]],
    *,
    whole: bool,
) -> None:
    """Write down audited partitions: name, rows in ClickHouse and Iceberg, equal.

    `whole`: they are all that the table has, so that others differ no more.
    """
    names = [partition for partition, *_ in partitions]
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            "insert into audits"
            " (audited_at, table_name, partition, clickhouse_rows, iceberg_rows, equal)"
            " values (%s, %s, %s, %s, %s, %s)",
            [(audited_at, table, *partition) for partition in partitions],
        )
        cursor.execute(
            "delete from audit_differences where table_name = %s and (%s or partition = any(%s))",
            (table, whole, names),
        )
        cursor.executemany(
            "insert into audit_differences"
            " (audited_at, table_name, partition, clickhouse_rows, iceberg_rows)"
            " values (%s, %s, %s, %s, %s) on conflict (table_name, partition) do update set"
            " audited_at = excluded.audited_at, clickhouse_rows = excluded.clickhouse_rows,"
            " iceberg_rows = excluded.iceberg_rows",
            [
                (audited_at, table, partition, here, there)
                for partition, here, there, equal in partitions
                if not equal
            ],
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

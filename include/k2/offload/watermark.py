"""Watermarks in PostgreSQL: claims with an epoch and a lease, intents, and the batch history.

A claim is held twice over: by a session-level advisory lock, which PostgreSQL frees the moment a
dead driver's connection ends, and by a lease, which frees it from a driver that hangs. Either way
the next claim has a higher epoch, and nothing is written under an older one.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from k2.errors import OffloadError, StackError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from k2.settings import Postgres

MIGRATIONS = Path(__file__).resolve().parents[2] / "postgres"
DATABASE = "k2"
LEASE_SECONDS = 120


class ClaimHeldError(OffloadError):
    """Another driver is offloading the table."""


class ClaimLostError(OffloadError):
    """The claim was taken over; this driver's work is void."""


@dataclass(frozen=True)
class Watermark:
    """What PostgreSQL knows of a table: the token's copy and the batch under way."""

    token: str | None
    intent: dict[str, Any] | None


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


class Claim:
    """A table, claimed: the only way to write its watermark.

    Made by `claim`. Every write carries the epoch and raises ClaimLostError when a later claim
    exists.
    """

    def __init__(
        self, connection: psycopg.Connection[dict[str, Any]], table: str, epoch: int
    ) -> None:
        self._connection = connection
        self._mutex = threading.Lock()
        self.table = table
        self.epoch = epoch

    def read(self) -> Watermark:
        """The token's copy and the intent."""
        row = self._write("epoch = epoch", {})
        return Watermark(row["token"], row["intent"])

    def renew(self) -> None:
        """Extend the lease."""
        self._write("lease_until = now() + make_interval(secs => %(lease)s)", {})

    def outrun(self, epoch: int) -> None:
        """Go beyond an epoch that Iceberg has seen: PostgreSQL was made anew or restored."""
        if epoch >= self.epoch:
            self._write("epoch = %(later)s", {"later": epoch + 1})
            self.epoch = epoch + 1

    def write_intent(self, intent: Mapping[str, Any]) -> None:
        """Write down what is about to be unloaded, before any row moves."""
        self._write("intent = %(intent)s", {"intent": Jsonb(dict(intent))})

    def set_token(self, token: str | None) -> None:
        """Make the copy equal to the token in Iceberg, and forget the intent."""
        self._write("token = %(token)s, intent = null", {"token": token})

    def advance(self, batch: Batch) -> None:
        """Record a committed batch: token, history, and no intent any more."""
        with self._mutex, self._connection.transaction():
            self._update("token = %(token)s, intent = null", {"token": batch.upper_token})
            self._connection.execute(
                """
                insert into offload_batches (
                    table_name, batch, epoch, lower_token, upper_token, partitions, row_count,
                    file_count, byte_count, started_at, committed_at, snapshot_id
                ) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
                on conflict do nothing
                """,
                (
                    self.table,
                    batch.name,
                    self.epoch,
                    batch.lower_token,
                    batch.upper_token,
                    json.dumps(batch.partitions),
                    batch.rows,
                    batch.files,
                    batch.bytes,
                    batch.started_at,
                    batch.committed_at,
                    batch.snapshot_id,
                ),
            )

    def release(self) -> None:
        """Free the table for the next driver."""
        self._write("holder = null, lease_until = null", {})

    def _write(self, assignment: LiteralString, values: Mapping[str, Any]) -> dict[str, Any]:
        with self._mutex:
            return self._update(assignment, values)

    def _update(self, assignment: LiteralString, values: Mapping[str, Any]) -> dict[str, Any]:
        row = self._connection.execute(
            "update offload_watermarks set updated_at = now(), "
            + assignment
            + " where table_name = %(table)s and epoch = %(epoch)s returning token, intent",
            {"table": self.table, "epoch": self.epoch, "lease": LEASE_SECONDS, **values},
        ).fetchone()
        if row is None:
            raise ClaimLostError(
                f"{self.table}: the claim was taken over by a later run; this run adds nothing"
            )
        return row


@contextmanager
def claim(postgres: Postgres, table: str) -> Iterator[Claim]:
    """Hold a table for the duration of the block; the lease is kept fresh meanwhile.

    Raises:
        ClaimHeldError: another driver holds it; the message says who, and since when.
    """
    with connect(postgres) as connection:
        held = Claim(connection, table, _take(connection, table))
        done = threading.Event()
        keeper = threading.Thread(target=_keep_lease, args=(held, done), daemon=True)
        keeper.start()
        try:
            yield held
        finally:
            done.set()
            keeper.join()
            with suppress(ClaimLostError, psycopg.Error):
                held.release()


def _take(connection: psycopg.Connection[dict[str, Any]], table: str) -> int:
    locked = connection.execute(
        "select pg_try_advisory_lock(hashtext('k2.offload'), hashtext(%s)) as locked", (table,)
    ).fetchone()
    free = locked is not None and locked["locked"]
    row = connection.execute(
        """
        insert into offload_watermarks as w
            (table_name, epoch, holder, claimed_at, lease_until)
        values (
            %(table)s, 1, %(holder)s, now(), now() + make_interval(secs => %(lease)s)
        )
        on conflict (table_name) do update set
            epoch = w.epoch + 1,
            holder = excluded.holder,
            claimed_at = excluded.claimed_at,
            lease_until = excluded.lease_until
        where %(free)s or w.lease_until is null or w.lease_until < now()
        returning epoch
        """,
        {
            "table": table,
            "holder": f"{socket.gethostname()} process {os.getpid()}",
            "lease": LEASE_SECONDS,
            "free": free,
        },
    ).fetchone()
    if row is not None:
        return int(row["epoch"])
    current = connection.execute(
        "select holder, claimed_at from offload_watermarks where table_name = %s", (table,)
    ).fetchone()
    who = f"{current['holder']} since {current['claimed_at']:%H:%M:%S} UTC" if current else "?"
    raise ClaimHeldError(f"{table}: is being offloaded by {who}; this run ends and adds nothing")


def _keep_lease(held: Claim, done: threading.Event) -> None:
    while not done.wait(LEASE_SECONDS / 4):
        try:
            held.renew()
        except (ClaimLostError, psycopg.Error):
            # The next write of the driver itself meets the same fact, and reports it.
            return

"""What retention dropped from ClickHouse, and what it kept and why, as PostgreSQL remembers it.

Iceberg keeps the rows. An audit adds what was dropped to what ClickHouse holds, so it goes on
watching over rows that only Iceberg has.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, LiteralString

from psycopg.types.json import Jsonb

from k2.offload.checksum import add_checksums
from k2.offload.plan import PartitionPlan, partition_documents

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Sequence

    from clickhouse_connect.driver.client import Client
    from psycopg import Connection

    from k2.offload.cursor import Position


class State(StrEnum):
    """How far a drop got. `returning`: there were unchecked rows among them, so all go back."""

    DROPPING = "dropping"
    RETURNING = "returning"
    DROPPED = "dropped"


class Reason(StrEnum):
    """Why a partition that is past its retention is still there."""

    NOT_OFFLOADED = "not offloaded"
    DIFFERS = "audit differs"
    DETACHED = "has detached parts"
    CHANGED = "got rows meanwhile"


@dataclass(frozen=True)
class Drop:
    """One ClickHouse partition, by its ingestion day, that is or was dropped.

    `partitions`: its rows by Iceberg partition. `positions`: the highest of each log partition
    among them. `checked_at`: by ClickHouse's clock. `newest_block`: parts above it came later.
    """

    table: str
    day: dt.date
    checked_at: dt.datetime
    partitions: tuple[PartitionPlan, ...]
    positions: tuple[Position, ...]
    newest_block: int
    state: State = State.DROPPING

    @property
    def rows(self) -> int:
        return sum(plan.rows for plan in self.partitions)


@dataclass(frozen=True)
class Kept:
    """One ClickHouse partition past its retention that stays, and why."""

    day: dt.date
    reason: Reason
    detail: str


@dataclass(frozen=True)
class Parts:
    """The parts of one ClickHouse partition: how many, and the span of their block numbers."""

    count: int
    oldest_block: int
    newest_block: int


@contextmanager
def lock(
    connection: Connection[dict[str, Any]], table: str, *, shared: bool = False
) -> Iterator[None]:
    """Keep retention and audits of a table apart for the duration of the block.

    Audits share the lock. PostgreSQL frees it when a dead holder's connection ends.
    """
    suffix: LiteralString = "_shared" if shared else ""
    key: LiteralString = "(hashtext('k2.retention'), hashtext(%s))"
    connection.execute("select pg_advisory_lock" + suffix + key, (table,))
    try:
        yield
    finally:
        connection.execute("select pg_advisory_unlock" + suffix + key, (table,))


def begin(connection: Connection[dict[str, Any]], drop: Drop) -> None:
    """Write down a drop before it happens."""
    connection.execute(
        "insert into retention_drops"
        " (table_name, ingested_on, checked_at, partitions, positions, newest_block)"
        " values (%s, %s, %s, %s, %s, %s)",
        (
            drop.table,
            drop.day,
            drop.checked_at,
            Jsonb(partition_documents(drop.partitions)),
            Jsonb([list(position) for position in drop.positions]),
            drop.newest_block,
        ),
    )


def set_state(connection: Connection[dict[str, Any]], drop: Drop, state: State) -> None:
    """Write down how far a drop got."""
    connection.execute(
        "update retention_drops set state = %s, changed_at = now()"
        " where table_name = %s and ingested_on = %s and checked_at = %s",
        (state.value, drop.table, drop.day, drop.checked_at),
    )


def forget(connection: Connection[dict[str, Any]], drop: Drop) -> None:
    """Take back a drop that did not happen."""
    connection.execute(
        "delete from retention_drops"
        " where table_name = %s and ingested_on = %s and checked_at = %s",
        (drop.table, drop.day, drop.checked_at),
    )


def read_drops(connection: Connection[dict[str, Any]], table: str) -> tuple[Drop, ...]:
    """Every drop of a table, finished or not, oldest first."""
    rows = connection.execute(
        "select * from retention_drops where table_name = %s order by checked_at, ingested_on",
        (table,),
    ).fetchall()
    return tuple(
        Drop(
            table=table,
            day=row["ingested_on"],
            checked_at=row["checked_at"],
            partitions=tuple(
                PartitionPlan(plan["partition"], plan["rows"], int(plan["checksum"]))
                for plan in row["partitions"]
            ),
            positions=tuple(tuple(position) for position in row["positions"]),
            newest_block=row["newest_block"],
            state=State(row["state"]),
        )
        for row in rows
    )


def happened(client: Client, drop: Drop) -> bool:
    """Whether the rows of a drop have left the table, also of one that was interrupted."""
    if drop.state is State.DROPPED:
        return True
    active = active_parts(client, drop.table, drop.day)
    if drop.state is State.RETURNING:
        # A part that is attached again gets a new block number.
        return active.count == 0
    return active.count == 0 or active.oldest_block > drop.newest_block


def add_up(drops: Sequence[Drop]) -> dict[str, tuple[int, int]]:
    """Rows and checksum of some drops by Iceberg partition."""
    sums: dict[str, tuple[int, int]] = {}
    for drop in drops:
        for plan in drop.partitions:
            rows, checksum = sums.get(plan.partition, (0, 0))
            sums[plan.partition] = (rows + plan.rows, add_checksums((checksum, plan.checksum)))
    return sums


def dropped_positions(
    connection: Connection[dict[str, Any]], table: str
) -> dict[Position, dt.datetime]:
    """The highest position of each log partition in each drop, and when it was dropped."""
    return {
        position: drop.checked_at
        for drop in read_drops(connection, table)
        for position in drop.positions
    }


def active_parts(client: Client, table: str, day: dt.date) -> Parts:
    """The parts that a partition is made of."""
    return _parts(client, "system.parts", "active", table, day)


def detached_parts(client: Client, table: str, day: dt.date) -> Parts:
    """The parts that were detached from a partition and can be attached again."""
    return _parts(client, "system.detached_parts", "reason = ''", table, day)


def _parts(client: Client, source: str, condition: str, table: str, day: dt.date) -> Parts:
    ((count, oldest, newest),) = client.query(
        f"select count(), min(min_block_number), max(max_block_number) from {source}"
        " where database = {database:String} and table = {table:String}"
        f" and partition_id = {{partition:String}} and {condition}",
        parameters={
            "database": client.database,
            "table": table,
            "partition": f"{day:%Y%m%d}",
        },
    ).result_rows
    return Parts(count, oldest or 0, newest or 0)


def record_kept(
    connection: Connection[dict[str, Any]], table: str, kept: Sequence[Kept], today: dt.date
) -> None:
    """Write down what a table's retention kept, instead of what it kept before."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("delete from retention_kept where table_name = %s", (table,))
        cursor.executemany(
            "insert into retention_kept (table_name, ingested_on, reason, detail, checked_on)"
            " values (%s, %s, %s, %s, %s)",
            [(table, one.day, one.reason.value, one.detail, today) for one in kept],
        )


def read_differing(
    connection: Connection[dict[str, Any]], table: str, *, checked_on: dt.date
) -> dict[dt.date, Kept]:
    """The partitions of a table that were found to differ on a day."""
    rows = connection.execute(
        "select ingested_on, detail from retention_kept"
        " where table_name = %s and reason = %s and checked_on = %s",
        (table, Reason.DIFFERS.value, checked_on),
    ).fetchall()
    return {
        row["ingested_on"]: Kept(row["ingested_on"], Reason.DIFFERS, row["detail"]) for row in rows
    }


def read_reasons(connection: Connection[dict[str, Any]]) -> dict[str, dict[dt.date, Reason]]:
    """Why each table's retention kept which partition, the last time."""
    found: dict[str, dict[dt.date, Reason]] = {}
    for row in connection.execute("select * from retention_kept").fetchall():
        found.setdefault(row["table_name"], {})[row["ingested_on"]] = Reason(row["reason"])
    return found

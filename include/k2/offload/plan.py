"""What one batch will move, written down before anything moves.

An intent holds the range, and for each Iceberg partition the rows and the checksum that its file
must have. What is unloaded later is held against it.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from k2.errors import OffloadError
from k2.offload.checksum import checksum_sql
from k2.offload.cursor import Position, Token, compare_sql, parse_token, up_to_sql
from k2.offload.partition import partition_bounds_sql, partition_sql
from k2.offload.source import FINAL_SETTINGS, INGESTION, source_sql, versions_sql

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Mapping, Sequence

    from clickhouse_connect.driver.client import Client

    from k2.offload.ranges import Range
    from k2.offload.schema import Column
    from k2.registry import Table


class SourceBehindError(OffloadError):
    """The source holds less than what was already offloaded from it."""


@dataclass(frozen=True)
class PartitionPlan:
    """One Iceberg partition of a batch: its day, month or year, rows and checksum."""

    partition: str
    rows: int
    checksum: int


@dataclass(frozen=True)
class Intent:
    """One batch: the rows of (lower, upper], or for overwrite the partitions they touch.

    `rows_where` takes its rows out of those partitions of the source; it is not written down, as a
    batch that is taken up again is planned anew.
    """

    batch: str
    path: str
    lower: Token | None
    upper: Token
    partitions: tuple[PartitionPlan, ...]
    rows_where: str = field(default="0", compare=False)

    @property
    def rows(self) -> int:
        return sum(partition.rows for partition in self.partitions)

    def to_document(self) -> dict[str, Any]:
        """As JSON. Checksums are text: they exceed what JSON numbers hold everywhere."""
        return {
            "batch": self.batch,
            "path": self.path,
            "lower": self.lower.to_json() if self.lower else None,
            "upper": self.upper.to_json(),
            "partitions": partition_documents(self.partitions),
        }


def partition_documents(partitions: Sequence[PartitionPlan]) -> list[dict[str, Any]]:
    """Partition plans as JSON."""
    return [{**asdict(plan), "checksum": str(plan.checksum)} for plan in partitions]


def parse_intent(document: dict[str, Any], table: Table) -> Intent:
    """The intent of a JSON document.

    Raises:
        OffloadError: the document is not an intent of this table.
    """
    try:
        return Intent(
            batch=document["batch"],
            path=document["path"],
            lower=parse_token(document["lower"], table.cursor) if document["lower"] else None,
            upper=parse_token(document["upper"], table.cursor),
            partitions=tuple(
                PartitionPlan(plan["partition"], plan["rows"], int(plan["checksum"]))
                for plan in document["partitions"]
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise OffloadError(f"not an intent of {table.name}: {str(document)[:200]}") from error


def require_source_not_behind(
    client: Client,
    table: Table,
    token: Token,
    dropped: Callable[[], Mapping[Position, dt.datetime]] = dict,
) -> None:
    """Raise SourceBehindError when the source has less than the token says was offloaded.

    A topic made anew counts its offsets from zero, and an old backup lacks the newest rows: in
    both cases new rows would hide below the token and never be offloaded. `dropped` tells which
    positions retention has dropped, and when: the lower ones that were there before are no news.
    """

    def has_row(position: Position, operator: str, arrival: str = "1") -> bool:
        where = f"{compare_sql(table.cursor, position, operator)} and {arrival}"
        versions = versions_sql(client, table)
        return bool(client.query(f"select 1 from {versions} where {where} limit 1").result_rows)

    for position in token.positions:
        if has_row(position, ">="):
            continue
        since = dropped().get(position)
        arrival = "1" if since is None else _arrived_after_sql(since)
        if has_row(position, "<", arrival):
            raise SourceBehindError(
                f"{table.name}: the source ends before {list(position)}, which is in the lake; "
                "the topic was made anew or an old backup was restored. See 'Source behind' in "
                "docs/runbook.md"
            )


def _arrived_after_sql(time: dt.datetime) -> str:
    return f"{INGESTION} > fromUnixTimestamp64Micro({round(time.timestamp() * 1_000_000)}, 'UTC')"


def plan_batch(
    client: Client,
    table: Table,
    columns: Sequence[Column],
    new: Range,
    *,
    directory: str,
    attempt: str,
) -> Intent:
    """The intent of a range: rows and checksum of each partition it touches.

    Every attempt writes to a path of its own below `directory`; it is part of the intent, so that a
    later attempt knows what to remove.
    """
    if table.commit == "overwrite":
        rows_where = up_to_sql(table.cursor, new.upper)
        touched = touched_partitions(client, table, new.where)
        where = f"{partition_bounds_sql(table.partition, touched)} and {rows_where}"
    else:
        where = rows_where = new.where
    partition = partition_sql(table.partition)
    rows = client.query(
        f"select {partition} as lake_partition, count(), {checksum_sql(columns, of_source=True)}"
        f" from {source_sql(client, table)} where {where}"
        " group by lake_partition order by lake_partition",
        settings=FINAL_SETTINGS,
    ).result_rows
    batch = batch_name(table, new.lower, new.upper)
    return Intent(
        batch=batch,
        path=f"{directory}/{batch}-{attempt}",
        lower=new.lower,
        upper=new.upper,
        partitions=tuple(PartitionPlan(name, count, checksum) for name, count, checksum in rows),
        rows_where=rows_where,
    )


def batch_name(table: Table, lower: Token | None, upper: Token) -> str:
    """A batch's name: the same for the same table and range."""
    text = "\n".join((table.name, lower.to_json() if lower else "", upper.to_json()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def touched_partitions(client: Client, table: Table, where: str) -> list[str]:
    """The Iceberg partitions of the rows that a predicate takes."""
    partition = partition_sql(table.partition)
    rows = client.query(
        f"select distinct {partition} as lake_partition from {source_sql(client, table)}"
        f" where {where} order by lake_partition"
    ).result_rows
    return [name for (name,) in rows]

"""The messages that could not become a trade: which there are, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from k2.clickhouse import quote_identifier

if TYPE_CHECKING:
    import datetime as dt

    from clickhouse_connect.driver.client import Client

# What a reason says in general: without the trade's number, an archive's line, and the value.
_KIND = (
    r"splitByString(': ', replaceRegexpOne(reason,"
    r" '^(trade [0-9]+ of [0-9]+|\\S+:[0-9]+): ', ''))[1]"
)


@dataclass(frozen=True)
class DeadLetter:
    """A message, or one trade of it, that is no trade; `arrived_at` in UTC."""

    arrived_at: dt.datetime
    exchange: str
    topic: str
    partition: int
    offset: int
    reason: str
    raw_message: str


@dataclass(frozen=True)
class ReasonCount:
    """How many dead letters of an exchange have a reason, and when the newest came, in UTC."""

    exchange: str
    reason: str
    dead_letters: int
    newest: dt.datetime


def open_letters_sql(database: str) -> str:
    """A subquery of the dead letters that no replay has settled."""
    schema = quote_identifier(database)
    return (
        f"(select * from {schema}.dead_letters final"
        " where (exchange, topic, kafka_partition, kafka_offset, reason) not in ("
        "select exchange, topic, kafka_partition, kafka_offset, reason"
        f" from {schema}.dead_letter_replays final where state = 'done'))"
    )


def newest_dead_letters(
    client: Client, database: str, *, exchange: str | None = None, limit: int = 20
) -> list[DeadLetter]:
    """The open dead letters that came last, the newest first."""
    rows = client.query(
        "select ingestion_timestamp, exchange, topic, kafka_partition, kafka_offset, reason,"
        f" raw_message from {open_letters_sql(database)}"
        " where {exchange:String} in ('', exchange)"
        " order by ingestion_timestamp desc, kafka_partition, kafka_offset desc, reason"
        " limit {limit:UInt64}",
        parameters={"exchange": exchange or "", "limit": limit},
    ).result_rows
    return [DeadLetter(*row) for row in rows]


def count_reasons(
    client: Client, database: str, *, exchange: str | None = None
) -> list[ReasonCount]:
    """How many open dead letters have which reason, the most frequent first."""
    rows = client.query(
        f"select exchange, {_KIND} as kind, count() as letters, max(ingestion_timestamp)"
        f" from {open_letters_sql(database)} where {{exchange:String}} in ('', exchange)"
        " group by exchange, kind order by letters desc, exchange, kind",
        parameters={"exchange": exchange or ""},
    ).result_rows
    return [ReasonCount(*row) for row in rows]


def count_recent_reasons(
    client: Client, database: str, *, hours: int
) -> dict[tuple[str, str], int]:
    """How many dead letters came in the last hours, by exchange and reason, replayed or not.

    Unlike all the others it costs what these hours brought, however many there are.
    """
    rows = client.query(
        f"select exchange, {_KIND} as kind,"
        " uniqExact(topic, kafka_partition, kafka_offset, reason)"
        f" from {quote_identifier(database)}.dead_letters"
        " where ingestion_timestamp > now64(3) - toIntervalHour({hours:UInt32})"
        " group by exchange, kind order by exchange, kind",
        parameters={"hours": hours},
    ).result_rows
    return {(str(exchange), str(kind)): int(count) for exchange, kind, count in rows}

"""The way from a queue of the embedded stack to Bronze: is all of it there, and was it all along?

A queue keeps nothing. What is inserted while a view behind it is missing, as when `k2 init` makes
the views anew, is gone without an error. So whoever inserts looks at the way before and after.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clickhouse_connect.driver.exceptions import ClickHouseError

from k2.errors import IngestError

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client


class FeedError(IngestError):
    """Messages cannot be fed into a queue."""


class WayError(FeedError):
    """The way from the queue to Bronze is not as it must be: a message would be lost."""


@dataclass(frozen=True)
class Way:
    """The tables and views that a message passes, each as it was made: made anew it is another."""

    parts: frozenset[tuple[str, str]]


def require_way(client: Client, database: str, exchange: str) -> Way:
    """The way of an exchange's messages from its queue to Bronze.

    Raises:
        WayError: a part is missing, or the queue reads from Kafka.
        FeedError: ClickHouse does not answer.
    """
    queue = f"trades_{exchange}_queue"
    needed = [
        queue,
        f"trades_{exchange}_parsed",
        f"trades_{exchange}_parsed_mv",
        f"bronze_trades_{exchange}_plain_mv",
        f"trades_{exchange}_unclear",
        f"trades_{exchange}_unclear_mv",
        f"trades_{exchange}_checked",
        f"trades_{exchange}_checked_mv",
        f"bronze_trades_{exchange}_mv",
        f"bronze_trades_{exchange}_dead_letters_mv",
    ]
    try:
        rows = client.query(
            "select name, toString(uuid), engine from system.tables"
            " where database = {database:String} and name in {names:Array(String)}",
            parameters={"database": database, "names": needed},
        ).result_rows
    except (ClickHouseError, OSError) as error:
        raise FeedError(f"ClickHouse cannot be used: {first_line(error)}") from error
    engines = {str(name): str(engine) for name, _, engine in rows}
    missing = [name for name in needed if name not in engines]
    if missing:
        raise WayError(
            f"{database}.{missing[0]} is not there, so messages would be lost; run 'k2 init' first"
        )
    if engines[queue] != "Null":
        raise WayError(
            f"{database}.{queue} reads from Kafka; produce the messages to its topic instead"
        )
    return Way(frozenset((str(name), str(uuid)) for name, uuid, _ in rows))


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]

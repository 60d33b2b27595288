"""One process an exchange hands out places of the log: a lock in PostgreSQL makes sure."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg

from k2.ingest.queues import FeedError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def only_feed_of(exchange: str, conninfo: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Hold the exchange's lock; PostgreSQL frees it when this process ends, however it ends.

    Gives the connection that holds it.

    Raises:
        FeedError: another process holds it, or PostgreSQL does not answer.
    """
    digest = hashlib.sha256(f"k2.feed.{exchange}".encode()).digest()
    key = int.from_bytes(digest[:8], "big", signed=True)
    try:
        connection = psycopg.connect(conninfo, autocommit=True)
    except psycopg.OperationalError as error:
        raise FeedError(
            f"PostgreSQL, which locks the feed of {exchange}, cannot be used: {first_line(error)}"
        ) from error

    with connection:
        row = connection.execute("select pg_try_advisory_lock(%s)", (key,)).fetchone()
        if row is None or not row[0]:
            raise FeedError(
                f"another feed of {exchange} is running; wait for it to end, then run this again"
            )
        try:
            yield connection
        finally:
            # The server notices a closed connection only some time later: the next feed would be
            # refused meanwhile.
            with suppress(psycopg.Error):
                connection.execute("select pg_advisory_unlock(%s)", (key,))


def require_lock(exchange: str, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Raise FeedError when the lock is no longer held."""
    try:
        connection.execute("select 1")
    except psycopg.OperationalError as error:
        raise FeedError(
            f"the feed of {exchange} lost its lock in PostgreSQL and stopped; run it again"
        ) from error

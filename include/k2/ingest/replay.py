"""Feeding raw messages into a queue of the embedded stack, as a topic of Kafka would deliver them.

Offsets go on after the highest one that was ever taken (see `offsets`). So a feed that was killed
is simply run again; its trades arrive twice then, which Silver is made for.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clickhouse_connect.driver.exceptions import ClickHouseError

from k2.ingest.archive_files import BadRow
from k2.ingest.lock import only_feed_of, require_lock
from k2.ingest.offsets import next_offsets, partition_of, wait_for_inserts
from k2.ingest.queues import FeedError, first_line, require_way
from k2.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from clickhouse_connect.driver.client import Client

    from k2.ingest.messages import Message
    from k2.registry import Exchange, Registry

BATCH_MESSAGES = 50_000


@dataclass(frozen=True)
class FeedResult:
    """What a feed did: messages put into the queue, rows put straight into the dead letters."""

    messages: int
    dead_letters: int
    seconds: float


@dataclass
class _Batch:
    """Columns of one insert into the queue, and bad rows that never were messages."""

    texts: list[str] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    bad: list[tuple[int, int, BadRow]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts) + len(self.bad)


def feed(
    client: Client,
    registry: Registry,
    exchange: str,
    messages: Iterable[Message | BadRow],
    *,
    conninfo: str,
    database: str = "k2",
    batch_messages: int = BATCH_MESSAGES,
    progress: Callable[[int, float], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> FeedResult:
    """Put messages into `trades_{exchange}_queue`, batch by batch, at the next free offsets.

    A market always goes to the same partition. A bad row takes an offset of its market's partition
    and goes to the dead letters with its reason.

    Args:
        conninfo: PostgreSQL, where a lock makes sure that one feed an exchange assigns offsets.
        progress: called after each batch with the messages so far and the seconds so far.

    Raises:
        FeedError: another feed of the exchange is running, the lock or ClickHouse got lost, or the
            queue is not there.
        RegistryError: unknown exchange.
        OffloadError: the watermark of the exchange's bronze table is not a token.
    """
    entry = registry.exchange(exchange)
    began = clock()
    fed = dead = 0
    with only_feed_of(exchange, conninfo) as connection:
        way = require_way(client, database, exchange)
        wait_for_inserts(client, f"trades_{exchange}_queue")
        free = next_offsets(client, connection, registry, database, exchange)
        for batch in _batches(messages, free, batch_messages):
            require_lock(exchange, connection)
            _insert(client, database, entry, batch)
            if require_way(client, database, exchange) != way:
                raise FeedError(
                    f"the views of {exchange} were made anew while it was fed; run it again"
                )
            fed += len(batch.texts)
            dead += len(batch.bad)
            if progress is not None:
                progress(fed, clock() - began)
    result = FeedResult(fed, dead, clock() - began)
    get_logger(exchange=exchange).info(
        "feed.done", rows=fed, dead_letters=dead, seconds=round(result.seconds, 3)
    )
    return result


def _batches(
    messages: Iterable[Message | BadRow], free: dict[int, int], size: int
) -> Iterator[_Batch]:
    partitions: dict[str, int] = {}
    batch = _Batch()
    for message in messages:
        symbol = message.symbol
        partition = partitions.get(symbol)
        if partition is None:
            partition = partitions.setdefault(symbol, partition_of(symbol))
        offset = free.get(partition, 0)
        free[partition] = offset + 1
        if isinstance(message, BadRow):
            batch.bad.append((partition, offset, message))
        else:
            batch.texts.append(message.text)
            batch.partitions.append(partition)
            batch.offsets.append(offset)
        if len(batch) >= size:
            yield batch
            batch = _Batch()
    if len(batch):
        yield batch


def _insert(client: Client, database: str, exchange: Exchange, batch: _Batch) -> None:
    try:
        if batch.texts:
            count = len(batch.texts)
            client.insert(
                f"trades_{exchange.name}_queue",
                [batch.texts, [exchange.topic] * count, batch.partitions, batch.offsets],
                column_names=["message", "_topic", "_partition", "_offset"],
                database=database,
                column_oriented=True,
            )
        if batch.bad:
            client.insert(
                "dead_letters",
                [
                    (exchange.name, exchange.topic, partition, offset, row.text, row.reason)
                    for partition, offset, row in batch.bad
                ],
                column_names=[
                    "exchange",
                    "topic",
                    "kafka_partition",
                    "kafka_offset",
                    "raw_message",
                    "reason",
                ],
                database=database,
            )
    except (ClickHouseError, OSError) as error:
        raise FeedError(
            f"the feed of {exchange.name} stopped, run it again once ClickHouse is well: "
            f"{first_line(error)}"
        ) from error

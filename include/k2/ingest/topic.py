"""One exchange's topic, read as a member of its consumer group.

What was read is committed when the caller says so, and never before. A member that dies or stalls
loses its partitions to others, which read on from what was committed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

from confluent_kafka import (
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from k2.errors import IngestError
from k2.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from confluent_kafka import Message

    from k2.registry import Exchange

IDLE_SECONDS: Final = 0.5

# Messages that are taken out of the consumer's own buffer at a time: it bounds by how much a batch
# can exceed its bytes.
_SLICE: Final = 1_000
_PREFETCHED_KILOBYTES: Final = 32 * 1024


class TopicError(IngestError):
    """A topic can no longer be read."""


@dataclass(frozen=True)
class Limits:
    """When a batch is full: by messages, by bytes, or when it is `interval` seconds after the last.

    The interval bounds how many inserts ClickHouse gets a second. The first message after a pause
    does not wait for it.
    """

    messages: int = 50_000
    bytes: int = 32 * 1024 * 1024
    interval: float = 0.2
    session_seconds: float = 10.0


@dataclass
class Batch:
    """Messages of one topic, in the order of each partition; a list for each column."""

    generation: int
    texts: list[bytes] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    times: list[int | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def ends(self) -> dict[int, int]:
        """The last offset of each partition."""
        return dict(zip(self.partitions, self.offsets, strict=True))

    @property
    def name(self) -> str:
        """Partitions with their offsets, such as `0:17-203 3:5-5`."""
        firsts = dict(zip(reversed(self.partitions), reversed(self.offsets), strict=True))
        ends = self.ends
        return " ".join(f"{number}:{firsts[number]}-{ends[number]}" for number in sorted(ends))

    def add(self, message: Message) -> int:
        """Add a message; its bytes. A message without a value is one of no bytes."""
        text = message.value() or b""
        kind, time_ms = message.timestamp()
        self.texts.append(text)
        self.partitions.append(cast("int", message.partition()))
        self.offsets.append(cast("int", message.offset()))
        self.times.append(None if kind == TIMESTAMP_NOT_AVAILABLE else time_ms)
        return len(text)


class Topic:
    """A member of the group. Not for two threads at once."""

    def __init__(
        self,
        exchange: Exchange,
        brokers: str,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Join the group; it does not wait for the broker."""
        self._limits = limits
        self._clock = clock
        self._topic = exchange.topic
        self._log = get_logger(topic=exchange.topic)
        self._trouble: str | None = None
        self._generation = 0
        self._held = False
        self._carried: list[Message] = []
        self._batch_ended = clock() - limits.interval
        self._consumer = Consumer(
            {
                "bootstrap.servers": brokers,
                "group.id": exchange.consumer_group,
                "client.id": "k2-ingest",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                "session.timeout.ms": round(limits.session_seconds * 1000),
                "heartbeat.interval.ms": max(100, round(limits.session_seconds * 250)),
                "queued.max.messages.kbytes": _PREFETCHED_KILOBYTES,
                # A batch waits longer anyway; asked for less, the broker answers each message.
                "fetch.wait.max.ms": 20,
                "fetch.min.bytes": 65_536,
                "topic.metadata.refresh.interval.ms": 10_000,
                "reconnect.backoff.max.ms": 2_000,
                "error_cb": self._note,
                # What matters comes by error_cb; its own log repeats each attempt to connect.
                "log_level": 0,
            }
        )
        self._consumer.subscribe(
            [exchange.topic],
            on_assign=self._assigned,
            on_revoke=self._revoked,
            on_lost=self._revoked,
        )

    def next_batch(self) -> Batch | None:
        """What has come, once it makes a batch; None when nothing came for a moment.

        Raises:
            TopicError: the broker refuses for good.
        """
        waiting = self._carried or self._usable([self._consumer.poll(IDLE_SECONDS)])
        self._carried = []
        if not waiting:
            return None
        batch = Batch(self._generation)
        size = sum(batch.add(message) for message in waiting)
        due = self._batch_ended + self._limits.interval
        while len(batch) < self._limits.messages and size < self._limits.bytes:
            left = max(0.0, due - self._clock())
            wanted = min(_SLICE, self._limits.messages - len(batch))
            came = self._consumer.consume(wanted, left)
            usable = self._usable(came)
            if not self.holds(batch):
                # What came before a rebalance comes again, here or at another member.
                batch, size = Batch(self._generation), 0
            size += sum(batch.add(message) for message in usable)
            if len(came) < wanted and self._clock() >= due:
                break
        self._batch_ended = self._clock()
        return batch if len(batch) else None

    def commit(self, batch: Batch, *, wait: bool = False) -> None:
        """Tell the group that a batch is done, unless its partitions were taken away meanwhile.

        A commit that gets lost only means that messages are read again.
        """
        if not self.holds(batch):
            return
        offsets = [
            TopicPartition(self._topic, partition, last + 1)
            for partition, last in batch.ends.items()
        ]
        try:
            if wait:
                self._consumer.commit(offsets=offsets, asynchronous=False)
            else:
                self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._note(error.args[0])

    def holds(self, batch: Batch) -> bool:
        """Whether the partitions of a batch are still this member's."""
        return batch.generation == self._generation

    def wait(self, seconds: float) -> None:
        """Read nothing for a time, and stay a member of the group."""
        if not self._held:
            self._held = True
            self._consumer.pause(self._consumer.assignment())
        self._carried += self._usable([self._consumer.poll(seconds)])

    def go_on(self) -> None:
        """Read again after `wait`."""
        if self._held:
            self._held = False
            self._consumer.resume(self._consumer.assignment())

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()

    def _usable(self, messages: Iterable[Message | None]) -> list[Message]:
        usable: list[Message] = []
        for message in messages:
            if message is None:
                continue
            error = message.error()
            if error is None:
                usable.append(message)
            else:
                self._note(error)
        if usable and self._trouble is not None:
            self._log.warning("kafka.back")
            self._trouble = None
        return usable

    def _note(self, error: KafkaError) -> None:
        """Say what is wrong, once; librdkafka itself tries again."""
        if error.fatal():
            raise TopicError(f"{self._topic} can no longer be read: {error.str()}")
        if error.name() != self._trouble:
            self._trouble = error.name()
            self._log.warning("kafka.trouble", code=error.name(), reason=error.str())

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._log.info("kafka.assigned", partitions=_numbers(partitions))
        if self._held:
            consumer.assign(partitions)
            consumer.pause(partitions)

    def _revoked(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._log.info("kafka.revoked", partitions=_numbers(partitions))
        self._generation += 1
        self._carried = []


def _numbers(partitions: list[Any]) -> str:
    return ",".join(str(one.partition) for one in partitions)

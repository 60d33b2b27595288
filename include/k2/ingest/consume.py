"""`k2 ingest`: from the exchanges' topics into the queues of the embedded stack.

Each exchange has a thread: take a batch, insert it, then commit its offsets. Whatever dies in
between, the messages are read again and land on the same keys of Bronze.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from clickhouse_connect.driver.exceptions import ClickHouseError

from k2.clickhouse import connect
from k2.errors import K2Error
from k2.ingest.queues import FeedError, Way, WayError, first_line, require_way
from k2.ingest.topic import Batch, Limits, Topic
from k2.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clickhouse_connect.driver.client import Client

    from k2.registry import Exchange
    from k2.settings import ClickHouse

_COLUMNS: Final = {
    "message": "String",
    "_topic": "LowCardinality(String)",
    "_partition": "UInt64",
    "_offset": "UInt64",
    "_timestamp_ms": "Nullable(DateTime64(3))",
}
_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 5.0
_REPORT_SECONDS: Final = 10.0


class Queue:
    """Inserts batches of one exchange; connects again after a failure."""

    def __init__(self, clickhouse: ClickHouse, exchange: Exchange) -> None:
        self._clickhouse = clickhouse
        self._exchange = exchange
        self._client: Client | None = None
        self._way: Way | None = None

    def check(self) -> None:
        """Raise WayError when the queue does not lead to Bronze; say nothing of what is away."""
        try:
            self._connect()
        except WayError:
            raise
        except K2Error:
            self._client = None

    def insert(self, batch: Batch) -> None:
        """Insert a batch, as one block, and make sure that Bronze got it.

        Raises:
            K2Error: it may not have arrived; inserted again, it lands on the same keys.
        """
        try:
            client, way = self._connect()
            client.insert(
                f"trades_{self._exchange.name}_queue",
                [
                    batch.texts,
                    [self._exchange.topic] * len(batch),
                    batch.partitions,
                    batch.offsets,
                    batch.times,
                ],
                column_names=list(_COLUMNS),
                column_type_names=list(_COLUMNS.values()),
                column_oriented=True,
            )
            after = require_way(client, self._clickhouse.database, self._exchange.name)
        except (ClickHouseError, OSError) as error:
            self._client = None
            raise FeedError(f"ClickHouse did not take the batch: {first_line(error)}") from error
        except K2Error:
            self._client = None
            raise
        if after != way:
            self._client = None
            raise FeedError("the views to Bronze were made anew")

    def _connect(self) -> tuple[Client, Way]:
        if self._client is None or self._way is None:
            self._client = connect(self._clickhouse)
            self._way = require_way(self._client, self._clickhouse.database, self._exchange.name)
        return self._client, self._way


@dataclass
class _Report:
    """What was done since the last line of the log."""

    clock: Callable[[], float]
    topic: str
    since: float = 0.0
    rows: int = 0
    batches: int = 0
    inserting: float = field(default=0.0)

    def add(self, batch: Batch, seconds: float) -> None:
        log = get_logger(topic=self.topic)
        log.debug("ingest.batch", batch=batch.name, rows=len(batch), seconds=round(seconds, 3))
        self.rows += len(batch)
        self.batches += 1
        self.inserting += seconds
        now = self.clock()
        if now - self.since >= _REPORT_SECONDS:
            log.info(
                "ingest.progress",
                rows=self.rows,
                batches=self.batches,
                seconds=round(now - self.since, 1),
                inserting=round(self.inserting, 1),
            )
            self.since, self.rows, self.batches, self.inserting = now, 0, 0, 0.0


def ingest(
    clickhouse: ClickHouse,
    exchanges: Sequence[Exchange],
    brokers: str,
    stop: threading.Event,
    *,
    limits: Limits | None = None,
) -> None:
    """Consume the topics of exchanges into their queues until `stop` is set.

    A batch that was begun is finished first, if ClickHouse takes it. What was not committed is
    read again by the next run.

    Args:
        brokers: Kafka bootstrap servers, `host:port,...`.

    Raises:
        WayError: a queue does not lead to Bronze.
        TopicError: the broker refuses for good.
    """
    # What the driver would print beside our own lines is in their reason.
    logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())
    queues = [Queue(clickhouse, exchange) for exchange in exchanges]
    for queue in queues:
        queue.check()
    failures: list[BaseException] = []

    def work(exchange: Exchange, queue: Queue) -> None:
        try:
            _consume(Topic(exchange, brokers, limits or Limits()), queue, exchange.topic, stop)
        except BaseException as error:  # the thread's end is the command's
            failures.append(error)
            stop.set()

    threads = [
        threading.Thread(target=work, args=pair, name=f"ingest-{pair[0].name}")
        for pair in zip(exchanges, queues, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and Ctrl-C set from now on; a second Ctrl-C ends the process."""
    stop = threading.Event()

    def ask(_number: int, _frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    return stop


def _consume(topic: Topic, queue: Queue, name: str, stop: threading.Event) -> None:
    report = _Report(time.monotonic, name, since=time.monotonic())
    try:
        while not stop.is_set():
            batch = topic.next_batch()
            if batch is None:
                continue
            began = time.monotonic()
            if _deliver(topic, queue, batch, stop, name):
                topic.commit(batch, wait=stop.is_set())
                report.add(batch, time.monotonic() - began)
    finally:
        topic.close()


def _deliver(topic: Topic, queue: Queue, batch: Batch, stop: threading.Event, name: str) -> bool:
    """Insert a batch, however often it takes; False when it was given up, to be read again."""
    log = get_logger(topic=name, batch=batch.name, rows=len(batch))
    delay = _FIRST_DELAY
    began = time.monotonic()
    while True:
        try:
            queue.insert(batch)
        except K2Error as error:
            if stop.is_set():
                log.warning("ingest.left", reason=str(error))
                return False
            log.warning("ingest.waiting", reason=str(error), again_in=delay)
        else:
            if delay > _FIRST_DELAY:
                log.warning("ingest.back", seconds=round(time.monotonic() - began, 1))
            topic.go_on()
            return True
        topic.wait(delay)
        delay = min(2 * delay, _LONGEST_DELAY)
        if not topic.holds(batch):
            log.warning("ingest.dropped", reason="its partitions went to another member")
            topic.go_on()
            return False

"""The producer of the freshness benchmark: simulated trades, sent to Kafka when they happen.

A process of its own. Trades come as on the exchanges, at random and in bursts; each is produced at
its own time, as the exchange's raw message, keyed by its market.
"""

from __future__ import annotations

import datetime as dt
import heapq
import time
from dataclasses import dataclass, replace
from itertools import count, groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from k2.bench.freshness.markers import MARKETS, PRICE, Marker
from k2.ingest.messages import messages
from k2.ingest.simulator import MARKETS as SIMULATED_MARKETS
from k2.ingest.simulator import simulate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from multiprocessing.connection import Connection

    from confluent_kafka import Producer

    from k2.ingest.trade import Trade

_TICK_SECONDS: Final = 0.005
_REPORT_SECONDS: Final = 0.5
_LEAD_SECONDS: Final = 0.5
_FLUSH_SECONDS: Final = 60
_MICROSECONDS_PER_MINUTE: Final = 60_000_000
_ONE_MESSAGE: Final = attrgetter("symbol", "timestamp_us")


@dataclass(frozen=True)
class Production:
    """What to produce. `topics`, `rates` (trades a second) and `markers` (the id of the next
    marker) are by exchange."""

    brokers: str
    topics: Mapping[str, str]
    rates: Mapping[str, int]
    markers: Mapping[str, int]
    seconds: float
    seed: int


@dataclass(frozen=True)
class Produced:
    """What was produced since the report before; `trades` is by exchange and since the start.

    `behind_seconds` is by how much the latest trade missed its time.
    """

    trades: dict[str, int]
    markers: list[Marker]
    behind_seconds: float
    undelivered: int = 0
    is_last: bool = False


class _Order(NamedTuple):
    """Messages that leave together."""

    timestamp_us: int
    exchange: str
    symbol: str
    texts: tuple[str, ...]
    trades: int
    marker: int | None


def produce(production: Production, reports: Connection) -> None:
    """Produce for so many seconds; what is not sent by then, because it is too much, is left out.

    Reports go to `reports`, the last one after the broker has acknowledged everything.
    """
    from confluent_kafka import Producer

    failures: list[str] = []
    producer = Producer(
        {
            "bootstrap.servers": production.brokers,
            "client.id": "k2-bench",
            # Keeps the order of a partition, and sends nothing twice.
            "enable.idempotence": True,
            "queue.buffering.max.messages": 1_000_000,
            "delivery.report.only.error": True,
            "on_delivery": lambda error, _message: failures.append(str(error)),
            "log_level": 0,
        }
    )
    start_us = time.time_ns() // 1000 + round(_LEAD_SECONDS * 1e6)
    orders = heapq.merge(
        *(_orders(production, exchange, start_us) for exchange in production.rates),
        key=attrgetter("timestamp_us"),
    )
    tally = _Tally(dict.fromkeys(production.rates, 0))
    deadline_us = start_us + round(production.seconds * 1e6)
    for order in orders:
        while order.timestamp_us > time.time_ns() // 1000:
            time.sleep(_TICK_SECONDS)
        if time.time_ns() // 1000 > deadline_us:
            break
        if time.monotonic() >= tally.due:
            producer.poll(0)
            reports.send(tally.report())
        _send(order, producer, production.topics[order.exchange], tally)
    left = producer.flush(_FLUSH_SECONDS)
    reports.send(tally.report(undelivered=left + len(failures), is_last=True))


class _Tally:
    """What was produced, told from time to time."""

    def __init__(self, trades: dict[str, int]) -> None:
        self.trades = trades
        self.markers: list[Marker] = []
        self.behind_us = 0
        self.due = time.monotonic() + _REPORT_SECONDS

    def report(self, *, undelivered: int = 0, is_last: bool = False) -> Produced:
        told = Produced(dict(self.trades), self.markers, self.behind_us / 1e6, undelivered, is_last)
        self.markers, self.behind_us = [], 0
        self.due = time.monotonic() + _REPORT_SECONDS
        return told


def _send(order: _Order, producer: Producer, topic: str, tally: _Tally) -> None:
    for text in order.texts:
        while True:
            produced_ns = time.monotonic_ns()
            try:
                producer.produce(topic, text, key=order.symbol)
            except BufferError:
                producer.poll(0.01)
            else:
                break
    tally.trades[order.exchange] += order.trades
    tally.behind_us = max(tally.behind_us, time.time_ns() // 1000 - order.timestamp_us)
    if order.marker is not None:
        minute = order.timestamp_us // _MICROSECONDS_PER_MINUTE * 60
        tally.markers.append(Marker(order.exchange, minute, order.marker, produced_ns))


def _orders(production: Production, exchange: str, start_us: int) -> Iterator[_Order]:
    """An exchange's trades at its rate, those of one market and time together."""
    rate, seconds = production.rates[exchange], production.seconds
    share = sum(one.share for one in SIMULATED_MARKETS if one.exchange == exchange)
    trades = simulate(
        production.seed,
        max(1, round(rate * seconds / share)),
        dt.datetime.fromtimestamp(start_us / 1e6, dt.UTC),
        seconds / 3600,
        exchange=exchange,
    )
    marked = _marked(exchange, trades, rate, production.markers[exchange])
    for (symbol, timestamp_us), together in groupby(marked, _ONE_MESSAGE):
        some = list(together)
        is_marker = symbol == MARKETS[exchange].symbol
        yield _Order(
            timestamp_us,
            exchange,
            symbol,
            tuple(message.text for message in messages(exchange, some)),
            len(some),
            some[0].trade_id if is_marker else None,
        )


def _marked(exchange: str, trades: Iterator[Trade], rate: int, next_id: int) -> Iterator[Trade]:
    """The same trades, one in so many as a marker."""
    market = MARKETS[exchange]
    ids = count(next_id)
    every = max(2, round(rate / market.each_second))
    for number, trade in enumerate(trades):
        if number % every:
            yield trade
        else:
            yield replace(trade, symbol=market.symbol, trade_id=next(ids), price=PRICE)

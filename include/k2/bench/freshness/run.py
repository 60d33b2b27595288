"""Runs of the freshness benchmark on a running path: produce, look, sample, settle, count."""

from __future__ import annotations

import multiprocessing
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import TYPE_CHECKING, Final

import numpy as np

from k2.bench.children import Child, child
from k2.bench.freshness.markers import (
    MARKETS,
    Marker,
    Observation,
    Waits,
    by_second,
    latency,
    waits,
)
from k2.bench.freshness.path import settle
from k2.bench.freshness.plan import FreshnessError, Plan, Rate, Run, Settling
from k2.bench.freshness.producing import Produced, Production, produce
from k2.bench.freshness.reading import Read, read_candles
from k2.bench.freshness.usage import Meter, Sample
from k2.clickhouse import connect
from k2.registry import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.synchronize import Event

    from clickhouse_connect.driver.client import Client

    from k2.bench.freshness.path import IngestPath

_NANOSECONDS: Final = 1_000_000_000
_PATIENCE_SECONDS: Final = 20.0
_PROGRESS_SECONDS: Final = 10.0
_TICK_SECONDS: Final = 1.0


@dataclass
class Bench:
    """A running path with what was seen on it so far; several runs can follow each other."""

    path: IngestPath
    client: Client
    say: Callable[[str], object]
    markers: list[Marker] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    first_minute: int = field(default_factory=lambda: _minute(time.time()))

    def run(self, rate: Rate, plan: Plan) -> Run:
        """Produce at a rate, measure, and wait until all of it is visible or nothing moves.

        Raises:
            StackError: a process of the path ended.
            FreshnessError: producer or reader failed.
        """
        self.say(f"{rate} trades a second for {plan.seconds:,.0f} s ...")
        before = self.visible()
        with _running(self, rate, plan) as running:
            running.watch()
        visible = {name: trades - before[name] for name, trades in self.visible().items()}
        return running.result(visible)

    def visible(self) -> dict[str, int]:
        """Trades that the view counts, by exchange; minute by minute, so that memory is bounded."""
        counted = dict.fromkeys(MARKETS, 0)
        for minute in range(self.first_minute, int(time.time()) + 60, 60):
            rows = self.client.query(
                "select exchange, sum(trade_count) from ohlcv_1m_view"
                f" where window_start = toDateTime({minute}, 'UTC') group by exchange"
            ).result_rows
            for exchange, trades in rows:
                counted[exchange] += trades
        return counted

    def rows(self, table: str) -> int:
        """Rows of a table."""
        ((rows,),) = self.client.query(f"select count() from {table}").result_rows
        return int(rows)


@contextmanager
def bench(path: IngestPath, say: Callable[[str], object]) -> Iterator[Bench]:
    """A bench on a running path."""
    with connect(path.settings.clickhouse) as client:
        yield Bench(path, client, say)


@contextmanager
def _running(bench: Bench, rate: Rate, plan: Plan) -> Iterator[_Running]:
    next_markers = dict.fromkeys(MARKETS, 1)
    for marker in bench.markers:
        next_markers[marker.exchange] = marker.trade_id + 1
    production = Production(
        brokers=bench.path.brokers,
        topics={one.name: one.topic for one in registry().exchanges},
        rates=rate.by_exchange,
        markers=next_markers,
        seconds=plan.warm_up + plan.seconds,
        seed=plan.seed,
    )
    clickhouse, since = bench.path.settings.clickhouse, _minute(time.time())
    with (
        child(read_candles, clickhouse, plan.period, since) as reader,
        child(produce, production) as producer,
        ExitStack() as settlers,
    ):
        yield _Running(bench, rate, plan, reader, producer, settlers)


@dataclass(frozen=True)
class _Settler:
    """A process that settles once `go` is set."""

    child: Child
    go: Event


class _Running:
    """One run while it goes on; its times are seconds since measuring began."""

    def __init__(
        self,
        bench: Bench,
        rate: Rate,
        plan: Plan,
        reader: Child,
        producer: Child,
        settlers: ExitStack,
    ) -> None:
        self._bench, self._rate, self._plan = bench, rate, plan
        self._reader, self._producer, self._settlers = reader, producer, settlers
        self._produced = Produced(dict.fromkeys(rate.by_exchange, 0), [], 0.0)
        self._begin_ns: int | None = None
        self._behind_seconds = 0.0
        self._query_seconds: list[float] = []
        self._samples: list[Sample] = []
        self._settlings: list[Settling] = []
        self._due = plan.settlings()
        self._settler = self._next_settler()
        self._settling_since: float | None = None
        self._silver_before = bench.rows("silver_trades")
        self._dead_letters_before = bench.rows("dead_letters")
        self._progress = (0, 0)
        self._moved = self._told = time.monotonic()
        self._meter = Meter(
            bench.client,
            {**bench.path.processes, "producer": producer.usage, "reader": reader.usage},
        )

    def watch(self) -> None:
        """Until everything that was produced is visible, or nothing moves any more."""
        while not (self._produced.is_last and self._is_settled() and self._is_at_rest()):
            self._listen(time.monotonic() + _TICK_SECONDS)
            self._bench.path.require_alive()
            if self._begin_ns is not None:
                now = (time.monotonic_ns() - self._begin_ns) / _NANOSECONDS
                self._samples.append(self._meter.sample(now))
                self._settle(now)
                self._tell(now)

    def result(self, visible: dict[str, int]) -> Run:
        """What came of it, once it has ended; `visible` are the trades that it made visible."""
        begin, end = self._window()
        measured = self._waits().between(begin, end)
        return Run(
            rate=self._rate,
            plan=self._plan,
            produced=self._produced.trades,
            visible=visible,
            dead_letters=self._bench.rows("dead_letters") - self._dead_letters_before,
            produced_rate=round(
                sum(self._produced.trades.values()) / (self._plan.warm_up + self._plan.seconds)
            ),
            behind_seconds=round(self._behind_seconds, 3),
            latency=latency(measured),
            last_quarter=latency(measured.between(end - (end - begin) // 4, end)),
            by_exchange={name: latency(self._waits(name).between(begin, end)) for name in MARKETS},
            read_ms=round(float(np.median(self._query_seconds)) * 1000, 1),
            look_ms=round(max(float(np.median(self._query_seconds)), self._plan.period) * 1000, 1),
            series=by_second(measured, begin),
            samples=self._samples,
            settlings=self._settlings,
        )

    def _listen(self, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            children = [self._reader] + [self._producer] * (not self._produced.is_last)
            for ready in connection.wait([one.reports for one in children], left):
                self._take(next(one for one in children if one.reports is ready))

    def _take(self, child: Child) -> None:
        try:
            report = child.reports.recv()
        except EOFError:
            raise FreshnessError("producer or reader failed; its error is above") from None
        if isinstance(report, Read):
            self._bench.observations += report.observations
            self._query_seconds += report.query_seconds
            return
        if report.undelivered:
            raise FreshnessError(f"the broker did not take {report.undelivered:,} messages")
        self._produced = report
        self._bench.markers += report.markers
        self._behind_seconds = max(self._behind_seconds, report.behind_seconds)
        if self._begin_ns is None and report.markers:
            warm_up = round(self._plan.warm_up * _NANOSECONDS)
            self._begin_ns = report.markers[0].produced_ns + warm_up

    def _is_at_rest(self) -> bool:
        unseen = int(np.isnan(self._waits().milliseconds).sum())
        rows = self._bench.rows("silver_trades") - self._silver_before
        if (rows, unseen) != self._progress:
            self._progress, self._moved = (rows, unseen), time.monotonic()
        is_complete = rows >= sum(self._produced.trades.values()) and not unseen
        still = time.monotonic() - self._moved
        return still > (_TICK_SECONDS if is_complete else _PATIENCE_SECONDS)

    def _next_settler(self) -> _Settler | None:
        """The process of the next settling, which waits until it is due."""
        if not self._due:
            return None
        path, go = self._bench.path, multiprocessing.get_context("spawn").Event()
        log = path.directory / "logs" / "settling.log"
        return _Settler(
            self._settlers.enter_context(
                child(settle, path.settings, path.directory / "dbt", log, go)
            ),
            go,
        )

    def _is_settled(self) -> bool:
        return self._settling_since is None

    def _settle(self, now: float) -> None:
        """Let dbt settle when it is due, take note when it has ended."""
        if self._settler is None:
            return
        since = self._settling_since
        if since is None and now >= self._due[0]:
            self._settling_since = now
            self._settler.go.set()
        elif since is not None and not self._settler.child.process.is_alive():
            error = self._settler.child.reports.recv()
            self._settlings.append(Settling(round(since, 1), round(now, 1), error))
            self._bench.say(f"  settled in {now - since:.0f} s" + (f": {error}" * bool(error)))
            self._due.pop(0)
            self._settler, self._settling_since = self._next_settler(), None

    def _tell(self, now: float) -> None:
        if now < 0 or time.monotonic() - self._told < _PROGRESS_SECONDS:
            return
        self._told = time.monotonic()
        end = time.monotonic_ns() - _NANOSECONDS
        begin = max(self._window()[0], end - round(_PROGRESS_SECONDS * _NANOSECONDS))
        newest = latency(self._waits().between(begin, end))
        sample = self._samples[-1]
        parts = "/".join(str(parts) for parts in sample.parts.values())
        self._bench.say(
            f"  {now:5.0f} s  {sum(self._produced.trades.values()):,} produced, "
            f"p50 {newest.p50} ms, p99 {newest.p99} ms, maximum {newest.maximum} ms, "
            f"{newest.unseen} on their way, parts {parts}"
        )

    def _waits(self, exchange: str | None = None) -> Waits:
        """The markers of this run's exchanges, and of the runs before it."""
        return waits(
            (one for one in self._bench.markers if exchange in (None, one.exchange)),
            self._bench.observations,
        )

    def _window(self) -> tuple[int, int]:
        if self._begin_ns is None:
            raise FreshnessError("nothing was produced: the run is too short for its rate")
        return self._begin_ns, self._begin_ns + round(self._plan.seconds * _NANOSECONDS)


def _minute(seconds: float) -> int:
    return int(seconds) // 60 * 60

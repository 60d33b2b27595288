"""Offloads of a quarter of an hour of new rows, out of a small table and out of a large one.

Each size is a stack of its own, whose Bronze, Silver and Gold are in Iceberg already. Then each in
turn gets the trades of the next quarter of an hour, and offloads what they brought: only these
offloads are measured.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from k2.bench import history, lake
from k2.bench.offload.data import TABLE
from k2.bench.offload.meter import Meter
from k2.bench.offload.ways import CORES
from k2.clickhouse import connect, quote_identifier
from k2.embedded.stack import clickhouse_process, running_engines
from k2.embedded.state import FREE_PORTS
from k2.ingest.bronze import create_bronze
from k2.jobs import offload_command
from k2.offload import watermark
from k2.offload.catalog import ensure_table, open_catalog
from k2.offload.schema import source_columns
from k2.registry import registry

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from clickhouse_connect.driver.client import Client

    from k2.bench.offload.meter import Usage
    from k2.embedded.stack import Stack

TABLES: Final = (TABLE, "silver_trades", "ohlcv_1m")
# The steps of a batch that a job logs with rows and seconds, and its last line.
STEPS: Final = ("planned", "unloaded", "verified", "committed")
_END: Final = "offloaded"
_EVENT: Final = re.compile(
    rf"event=({'|'.join((*STEPS, _END))}) .*\brows=(\d+) .*?\bseconds=([\d.]+)"
)
_MERGING_SECONDS: Final = 300.0


@dataclass(frozen=True)
class Measured:
    """One offload of what a quarter of an hour brought to one table.

    `table_rows`: rows of the table in ClickHouse, all versions. `rows`: rows written to Iceberg.
    `rows_read`: rows that ClickHouse read for all of the job. `steps`: seconds by step.
    `run_seconds`: from claim to release; `job_seconds`: from the start of the process to its end.
    Processor time and memory (the most at a time) are those of the job and of ClickHouse.
    """

    table: str
    table_trades: int
    table_rows: int
    rows: int
    rows_read: int
    steps: dict[str, float]
    run_seconds: float
    job_seconds: float
    cpu_seconds: float
    peak_mb: float


def measure(
    directory: Path,
    *,
    now: Callable[[], dt.datetime],
    table_trades: Sequence[int],
    new_trades: int,
    repeat: int,
    say: Callable[[str], None],
) -> Iterator[Measured]:
    """Measure the offloads of `repeat` intervals of `new_trades` on a history of each size in turn.

    Args:
        directory: an empty folder for the stacks.
        now: the current time, UTC; the last interval ends there.

    Raises:
        CommandError: an offload failed.
        WrongRowsError: Iceberg holds other rows than ClickHouse at the end.
        StackError, TransformError: a stack cannot be started, or dbt failed.
    """
    with ExitStack() as stacks:
        running = [
            stacks.enter_context(running_engines(directory / str(trades), say, FREE_PORTS))
            for trades in table_trades
        ]
        servers = [clickhouse_process(stack) for stack in running]
        start = now() - (repeat + 1) * history.INTERVAL
        medallions = [
            _Medallion(
                stack,
                stacks.enter_context(_connect_to_bronze(stack)),
                Meter([server], [other for other in servers if other is not server]),
                trades,
                new_trades,
                start,
            )
            for stack, server, trades in zip(running, servers, table_trades, strict=True)
        ]
        for medallion in medallions:
            medallion.prepare(say)
        for number in range(1, repeat + 1):
            say(f"interval {number} of {repeat}, {new_trades:,} new trades")
            for medallion in medallions:
                medallion.add(number)
                yield from medallion.offload()
        for medallion in medallions:
            medallion.require_all_in_lake()


@dataclass(frozen=True)
class _Medallion:
    """A stack with a history of so many trades up to `start`, and the intervals after it."""

    stack: Stack
    client: Client
    meter: Meter
    trades: int
    new_trades: int
    start: dt.datetime

    def prepare(self, say: Callable[[str], None]) -> None:
        """The history, its candles and a first interval, everything in Iceberg."""
        settings = self.stack.settings
        history.build(settings, self._dbt)
        with watermark.connect(settings.postgres) as connection:
            watermark.migrate(connection)
        say(f"{self.trades:,} trades of {history.DAYS} days go to Silver and Gold ...")
        history.fill(self.client, self.trades, self.start)
        history.add_interval(self.client, self.trades, self.new_trades, self.start)
        history.settle(settings, self._dbt)
        say("they are offloaded ...")
        catalog = open_catalog(settings)
        for name in TABLES:
            table = registry().table(name)
            ensure_table(catalog, settings, table, source_columns(self.client, table))
            _, output = self._run(name)
            rows, seconds = read_log(output)
            say(f"  {name}: {rows[_END]:,} rows in {seconds[_END]:.1f} s")
        self._wait_for_merges()

    def add(self, number: int) -> None:
        """The trades of an interval, counted from 1, and their candles."""
        start = self.start + number * history.INTERVAL
        first = self.trades + number * self.new_trades
        history.rewind(self.stack.settings, self._dbt, start)
        history.add_interval(self.client, first, self.new_trades, start)
        history.settle(self.stack.settings, self._dbt)

    def offload(self) -> Iterator[Measured]:
        """Offload each table, measured."""
        for name in TABLES:
            table_rows, read = self._count(name), self._rows_read()
            usage, output = self._run(name)
            read = self._rows_read() - read
            rows, seconds = read_log(output)
            yield Measured(
                table=name,
                table_trades=self.trades,
                table_rows=table_rows,
                rows=rows[_END],
                rows_read=read,
                steps={step: round(seconds[step], 3) for step in STEPS},
                run_seconds=seconds[_END],
                job_seconds=round(usage.seconds, 3),
                cpu_seconds=round(usage.cpu_seconds, 2),
                peak_mb=round(usage.peak_mb, 1),
            )

    def require_all_in_lake(self) -> None:
        """Raise WrongRowsError unless Iceberg has as many rows of each table as ClickHouse."""
        for name in TABLES:
            here = self._count(name, "final")
            there, _ = lake.rows_and_bytes(self.stack.settings, name)
            if here != there:
                raise lake.WrongRowsError(
                    f"{name}: {there:,} rows in Iceberg, {here:,} in ClickHouse"
                )

    def _run(self, name: str) -> tuple[Usage, str]:
        """The job of one offload: what it used, and its log."""
        return self.meter.run(offload_command(name, cores=CORES), self.stack.environment)

    @property
    def _dbt(self) -> Path:
        return self.stack.directory / "dbt"

    def _count(self, name: str, modifier: str = "") -> int:
        query = f"select count() from {quote_identifier(name)} {modifier}"
        return int(self.client.query(query).result_rows[0][0])

    def _rows_read(self) -> int:
        """Rows that ClickHouse has read since it started."""
        query = "select value from system.events where event = 'SelectedRows'"
        return int(self.client.query(query).result_rows[0][0])

    def _wait_for_merges(self) -> None:
        """Until what the history left to merge is merged, or does not come to an end."""
        deadline = time.monotonic() + _MERGING_SECONDS
        while time.monotonic() < deadline:
            ((merges,),) = self.client.query("select count() from system.merges").result_rows
            if merges == 0:
                return
            time.sleep(1)


def _connect_to_bronze(stack: Stack) -> Client:
    """A client of the medallion's database, which Bronze is created in."""
    with connect(stack.settings.clickhouse, database="default") as client:
        create_bronze(client, registry(), queue="embedded")
    return connect(stack.settings.clickhouse)


def read_log(output: str) -> tuple[Counter[str], dict[str, float]]:
    """Rows and seconds of each step that an offload has logged, its batches added up."""
    rows: Counter[str] = Counter()
    seconds = dict.fromkeys((*STEPS, _END), 0.0)
    for event, count, taken in _EVENT.findall(output):
        rows[event] += int(count)
        seconds[event] += float(taken)
    return rows, seconds

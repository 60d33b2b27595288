"""The offload against the other ways to Iceberg: the same rows, one way after the other, repeated.

Everything is real: simulated trades in ClickHouse, jobs as Airflow starts them, Iceberg on disk.
"""

from __future__ import annotations

import functools
import shutil
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from k2 import terminal
from k2.bench import lake
from k2.bench.offload import ways
from k2.bench.offload.data import EXCHANGE, TABLE, copy_trades, simulate_trades
from k2.bench.offload.meter import Meter, Usage
from k2.clickhouse import connect
from k2.embedded.stack import clickhouse_process
from k2.ingest.bronze import create_bronze
from k2.offload import watermark
from k2.offload.plan import plan_batch
from k2.offload.ranges import next_range
from k2.offload.schema import source_columns
from k2.offload.storage import FileSystem, local_path
from k2.offload.unload import unload
from k2.registry import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clickhouse_connect.driver.client import Client

    from k2.bench.offload.ways import Way
    from k2.embedded.stack import Stack
    from k2.registry import Table


@dataclass(frozen=True)
class Measured:
    """One run of a way.

    `transfer_seconds` are those in which rows move and are committed, `plan_seconds` those in which
    an offload counted and summed them before, `job_seconds` those from the start of the process to
    its end. Processor time and memory (the most at a time) are those of all processes, ClickHouse
    included; `lake_bytes` is what the rows take in Iceberg.
    """

    way: str
    rows: int
    plan_seconds: float
    transfer_seconds: float
    job_seconds: float
    cpu_seconds: float
    peak_mb: float
    lake_bytes: int


def measure(
    stack: Stack, *, rows: int, large: int, repeat: int, say: Callable[[str], None]
) -> Iterator[Measured]:
    """Measure every way on `rows` trades, `repeat` times in turn; then the offload and its floor on
    `large` trades, if that is more.

    Args:
        stack: running engines that do nothing else, with an empty ClickHouse.

    Raises:
        CommandError: a way failed.
        WrongRowsError: a way lost rows, or doubled some.
    """
    table = registry().table(TABLE)
    with connect(stack.settings.clickhouse, database="default") as client:
        create_bronze(client, registry(), queue="embedded")
    with watermark.connect(stack.settings.postgres) as connection:
        watermark.migrate(connection)
    with connect(stack.settings.clickhouse) as client:
        bench = _Bench(stack, client, table, Meter([clickhouse_process(stack)]))
        progress = terminal.every(
            2.0, lambda name, count, seconds: say(f"  {name}: {count:,} ({seconds:.0f} s)")
        )
        simulate_trades(client, stack.settings, rows, functools.partial(progress, EXCHANGE))
        own = ways.unload(stack, table)
        others = (
            ways.jdbc(stack, table, client),
            ways.scan(stack, table),
            ways.pyiceberg(stack, table, client),
        )
        for number in range(1, repeat + 1):
            say(f"round {number} of {repeat}, {rows:,} rows")
            for way in (*others, own):
                yield bench.run(way, rows)
            yield bench.start(replace(own, name=ways.NOTHING_NEW))
            yield bench.start(ways.plain_start(stack, table))
            yield bench.floor(rows)
        if large > rows:
            say(f"the trades are copied until they are {large:,} ...")
            copy_trades(client, large)
            for number in range(1, repeat + 1):
                say(f"round {number} of {repeat}, {large:,} rows")
                yield bench.run(own, large)
                yield bench.floor(large)


@dataclass(frozen=True)
class _Bench:
    """A filled table, its Iceberg table, and what measures."""

    stack: Stack
    client: Client
    table: Table
    meter: Meter

    def run(self, way: Way, rows: int) -> Measured:
        """All rows into an empty Iceberg table."""
        lake.empty(self.stack.settings, self.client, self.table)
        usage, output = self.meter.run(way.command, way.environment)
        there, size = lake.rows_and_bytes(self.stack.settings, self.table.name)
        if there != rows:
            raise lake.WrongRowsError(
                f"{way.name}: {there:,} rows in Iceberg, {rows:,} in ClickHouse"
            )
        seconds = ways.plan_seconds(output), way.transfer_seconds(output)
        return _measured(way.name, rows, seconds, usage, size)

    def start(self, way: Way) -> Measured:
        """A job that finds nothing to move: what its start costs."""
        usage, _ = self.meter.run(way.command, way.environment)
        return _measured(way.name, 0, (0.0, 0.0), usage, 0)

    def floor(self, rows: int) -> Measured:
        """ClickHouse writes the files of an offload, and nothing else happens."""
        directory = f"file:{self.stack.directory}/lake/floor"
        columns = source_columns(self.client, self.table)
        intents, lower = [], None
        while new := next_range(self.client, self.table, lower):
            intents.append(
                plan_batch(
                    self.client,
                    self.table,
                    columns,
                    new,
                    directory=directory,
                    attempt=uuid.uuid4().hex,
                )
            )
            lower = new.upper
        try:
            usage, files = self.meter.measure(
                lambda: [
                    file
                    for intent in intents
                    for file in unload(self.client, FileSystem(), self.table, columns, intent)
                ]
            )
            size = sum(Path(local_path(file.location)).stat().st_size for file in files)
        finally:
            shutil.rmtree(local_path(directory), ignore_errors=True)
        return _measured(ways.FLOOR, rows, (0.0, usage.seconds), usage, size)


def _measured(
    way: str, rows: int, seconds: tuple[float, float], usage: Usage, size: int
) -> Measured:
    plan_seconds, transfer_seconds = seconds
    return Measured(
        way,
        rows,
        round(plan_seconds, 3),
        round(transfer_seconds, 3),
        round(usage.seconds, 3),
        round(usage.cpu_seconds, 2),
        round(usage.peak_mb, 1),
        size,
    )

"""Two equally large tables, offloaded one after the other and at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from k2.bench import lake
from k2.bench.offload.meter import Meter
from k2.bench.offload.ways import CORES
from k2.clickhouse import connect
from k2.embedded.stack import clickhouse_process
from k2.jobs import offload_command
from k2.registry import registry

if TYPE_CHECKING:
    from k2.embedded.stack import Stack

TABLES: Final = ("bronze_trades_binance", "silver_trades")


@dataclass(frozen=True)
class Pair:
    """Seconds, and processor seconds with those of ClickHouse, of both offloads of TABLES."""

    rows: int
    in_turn_seconds: float
    in_turn_cpu_seconds: float
    at_once_seconds: float
    at_once_cpu_seconds: float

    @property
    def ratio(self) -> float:
        """How many times faster they are at once."""
        return self.in_turn_seconds / self.at_once_seconds


def measure_pair(stack: Stack) -> Pair:
    """Offload TABLES whole, each as a job of its own: one after the other, then at once.

    Args:
        stack: running engines that do nothing else, with trades in both tables.

    Raises:
        CommandError: an offload failed.
        WrongRowsError: afterwards, Iceberg does not hold the rows of both tables.
    """
    meter = Meter([clickhouse_process(stack)])

    def offload(table: str) -> None:
        meter.run(offload_command(table, cores=CORES), stack.environment)

    def one_after_the_other() -> None:
        for table in TABLES:
            offload(table)

    def at_once() -> None:
        with ThreadPoolExecutor(len(TABLES)) as executor:
            list(executor.map(offload, TABLES))

    _empty(stack)
    in_turn, _ = meter.measure(one_after_the_other)
    lake.require_all_rows(stack.settings, TABLES)
    _empty(stack)
    both, _ = meter.measure(at_once)
    return Pair(
        lake.require_all_rows(stack.settings, TABLES),
        round(in_turn.seconds, 3),
        round(in_turn.cpu_seconds, 2),
        round(both.seconds, 3),
        round(both.cpu_seconds, 2),
    )


def _empty(stack: Stack) -> None:
    with connect(stack.settings.clickhouse) as client:
        for table in TABLES:
            lake.empty(stack.settings, client, registry().table(table))

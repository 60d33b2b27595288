"""What a run uses while it goes on: parts in ClickHouse, processor time and memory of each process.

Beside them, how long a reader of the busiest market waits for its open candle.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clickhouse_connect.driver.client import Client

TABLES: Final = (
    "bronze_trades_binance",
    "bronze_trades_kraken",
    "silver_trades",
    "ohlcv_live",
)
SETTLING: Final = "settling"
MACHINE: Final = "machine"

_SAMPLES_A_READ: Final = 10
_PARTS: Final = """
    select table, count() from system.parts
    where active and database = currentDatabase() and table in {tables:Array(String)}
    group by table
"""
_NEWEST: Final = """
    select window_start, open_price, high_price, low_price, close_price, volume
    from ohlcv_1m_view
    where exchange = 'binance' and canonical_symbol = 'BTC/USDT'
        and window_start >= toStartOfMinute(now())
"""


@dataclass(frozen=True)
class Sample:
    """One look: `second` is since measuring began, `cpu_seconds` since the first look.

    `newest_ms` are the milliseconds that the open candle of the busiest market took; it is looked
    at once in ten samples.
    """

    second: float
    parts: dict[str, int]
    cpu_seconds: dict[str, float]
    memory_mb: dict[str, float]
    newest_ms: float | None


class Meter:
    """Looks at a ClickHouse and at named processes."""

    def __init__(self, client: Client, processes: Mapping[str, psutil.Process]) -> None:
        self._client = client
        self._processes = dict(processes)
        self._before = self._cpu_seconds()
        self._samples = 0

    def sample(self, second: float) -> Sample:
        """Look now. Processes that have ended count no further."""
        newest_ms = self._newest_ms() if self._samples % _SAMPLES_A_READ == 0 else None
        self._samples += 1
        rows = self._client.query(_PARTS, parameters={"tables": list(TABLES)}).result_rows
        parts = {str(table): int(count) for table, count in rows}
        cpu = self._cpu_seconds()
        return Sample(
            round(second, 1),
            {table: parts.get(table, 0) for table in TABLES},
            {name: round(cpu[name] - self._before.get(name, 0.0), 2) for name in cpu},
            self._memory(),
            newest_ms,
        )

    def _newest_ms(self) -> float:
        began = time.monotonic()
        self._client.query(_NEWEST)
        return round((time.monotonic() - began) * 1000, 1)

    def _cpu_seconds(self) -> dict[str, float]:
        seconds = {}
        for name, process in self._processes.items():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            seconds[name] = times.user + times.system
        seconds[SETTLING] = self._settling()
        machine = psutil.cpu_times()
        seconds[MACHINE] = sum(machine[:9]) - machine.idle - getattr(machine, "iowait", 0.0)
        return seconds

    def _settling(self) -> float:
        """Of all children of this process that have no name here, those that ended included."""
        this = psutil.Process()
        named = {process.pid for process in self._processes.values()}
        ended = this.cpu_times()
        seconds = ended.children_user + ended.children_system
        for process in this.children(recursive=True):
            if process.pid not in named:
                try:
                    seconds += sum(process.cpu_times()[:4])
                except psutil.NoSuchProcess:
                    continue
        return float(seconds)

    def _memory(self) -> dict[str, float]:
        memory = {}
        for name, process in self._processes.items():
            try:
                memory[name] = round(process.memory_info().rss / 1e6, 1)
            except psutil.NoSuchProcess:
                continue
        return memory

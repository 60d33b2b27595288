"""One case of the matrix: a table, its feed, the drivers that run on it, and what must hold."""

from __future__ import annotations

import itertools
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from k2.clickhouse import connect
from k2.offload.audit import audit_table, require_equal

from .driver import RunningDriver, start_driver
from .report import Difference, Outcome, compare

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.integration.offload.conftest import Bench

    from k2.settings import Settings

    from .feed import Rows


@dataclass
class Case:
    """A table that was offloaded once before, unless said otherwise, and is about to see a fault.

    `kills` counts what was killed, stopped or cut off.
    """

    name: str
    where: str
    bench: Bench
    rows: Iterator[Rows]
    registry: Path
    directory: Path
    java: Mapping[str, str]
    kills: int = 0
    concluded: bool = False
    _difference: Difference | None = None
    _started: float = field(default_factory=time.monotonic)
    _drivers: list[RunningDriver] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def feed(self) -> None:
        """New rows arrive."""
        self.bench.insert(next(self.rows))

    def start(self, fault: str = "", settings: Settings | None = None) -> RunningDriver:
        """A driver, running; `settings` other than the bench's lead it another way."""
        driver = start_driver(
            self.bench.name,
            settings or self.bench.settings,
            self.registry,
            self.directory / f"driver-{next(self._numbers)}",
            java=self.java,
            fault=fault,
        )
        self._drivers.append(driver)
        return driver

    def kill_at(self, point: str) -> None:
        """A driver that kills itself, and all its processes, at a point."""
        driver = self.start(f"{point}:kill")
        assert driver.end() == -signal.SIGKILL, driver.output()
        self.kills += 1

    @contextmanager
    def paused_at(self, point: str) -> Iterator[RunningDriver]:
        """A driver that waits at a point for the duration of the block, and then goes on."""
        driver = self.start(f"{point}:pause")
        driver.wait_until_paused()
        yield driver
        driver.go_on()

    def wait_until_writing(self, driver: RunningDriver) -> None:
        """Return the moment ClickHouse has begun to write a Parquet file."""
        before, data = self.bench.files(), self._data
        driver.wait_until(lambda: any(path not in before for path in data.glob("*/*.parquet")))

    @property
    def _data(self) -> Path:
        return Path(self.bench.iceberg().location().removeprefix("file:")) / "data"

    def require_refused(self, driver: RunningDriver) -> None:
        """The driver ends with one line that says why, and without a claim that it did anything."""
        assert driver.end() == 1, driver.output()
        output = driver.output()
        assert output.count('event="offload stopped"') == 1, output
        assert "Traceback" not in output

    def rerun(self) -> None:
        """A plain run, as after any fault."""
        driver = self.start()
        assert driver.end() == 0, driver.output()

    def reconnect(self) -> None:
        """ClickHouse is another process than before."""
        client = connect(self.bench.settings.clickhouse)
        self.bench = replace(self.bench, client=client)

    def difference(self) -> Difference:
        """The rows in Iceberg against those that ClickHouse holds."""
        self._difference = compare(self.bench.source_rows(), self.bench.lake_rows())
        return self._difference

    def conclude(self) -> None:
        """Every row is in Iceberg once, both watermarks agree, and no file is left over."""
        assert self.difference() == Difference(lost=0, duplicated=0)
        require_equal([audit_table(self.bench.settings, self.bench.table)])
        watermark = self.bench.watermark()
        token = self.bench.iceberg().properties["k2.token"]
        assert (watermark["token"], watermark["intent"]) == (token, None)
        assert watermark["holder"] is None
        committed = self.bench.iceberg().inspect.all_data_files()["file_path"].to_pylist()
        assert {f"file:{path}" for path in self.bench.files()} == set(committed)
        self.concluded = True

    def outcome(self) -> Outcome:
        """For the table; measured now, where the case ended before its conclusion."""
        seconds = time.monotonic() - self._started
        difference = self._difference or self.difference()
        return Outcome(
            self.name,
            self.where,
            self.kills,
            len(self.bench.source_rows()),
            difference.lost,
            difference.duplicated,
            seconds,
            self.concluded,
        )

    def clear_away(self) -> None:
        """End every driver that is still there."""
        for driver in self._drivers:
            driver.clear_away()

"""One case of the matrix: a table, its feed, the drivers that run on it, and what must hold."""

from __future__ import annotations

import itertools
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tests.integration.offload import conftest as offload_tests

from k2.clickhouse import connect
from k2.jobs import offload
from k2.offload.audit import audit_table, require_equal
from k2.offload.lake import JvmLake

from .driver import RunningDriver, start_driver
from .report import Difference, Outcome, compare
from .servers import Network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from k2.offload.engine import LakeTable

    from .feed import Rows
    from .servers import ClickHouseServer

# Bytes of answers: more than the largest slice of a `heavy` case has, and less than half of all.
_SOME_SLICES = 4_500_000


class Bench(offload_tests.Bench):
    """A bench whose PostgreSQL may have been away."""

    def lake_table(self) -> LakeTable:
        """Through a catalog of its own: an older one holds connections to a server that is gone."""
        return JvmLake(self.gateway, self.settings).load(self.name)


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
    clickhouse: ClickHouseServer
    kills: int = 0
    concluded: bool = False
    _difference: Difference | None = None
    _started: float = field(default_factory=time.monotonic)
    _drivers: list[RunningDriver] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def feed(self) -> None:
        """New rows arrive."""
        self.bench.insert(next(self.rows))

    def start(self, fault: str = "", network: Network | None = None) -> RunningDriver:
        """A driver, running; it reaches ClickHouse through a network, where one is given."""
        settings = self.bench.settings
        if network is not None:
            around = replace(settings.clickhouse, port=network.port)
            settings = replace(settings, clickhouse=around)
        driver = start_driver(
            self.bench.name,
            settings,
            self.registry,
            self.directory / f"driver-{next(self._numbers)}",
            java=self.java,
            fault=fault,
        )
        self._drivers.append(driver)
        return driver

    def network(self, *, holds_after: int | None = None) -> Network:
        """A way to ClickHouse."""
        return Network(self.bench.settings.clickhouse.port, holds_after=holds_after)

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

    def start_scanning(self) -> tuple[RunningDriver, Network]:
        """A driver in the middle of a scan: Spark has some of the rows, and waits for the next."""
        before = self._parquet_files()
        network = self.network(holds_after=_SOME_SLICES)
        driver = self.start(network=network)
        driver.wait_until(network.holds)
        written = self._parquet_files() - before
        assert written
        assert all("_temporary" in path.parts for path in written)
        return driver, network

    def start_writing(self, start: Callable[[], RunningDriver]) -> RunningDriver:
        """A driver whose ClickHouse is frozen in the middle of writing Parquet files.

        Where ClickHouse was faster than the eye, it is tried again with the next rows.
        """
        while True:
            before = self._parquet_files()
            driver = start()
            driver.wait_until(lambda: self._parquet_files() > before)  # noqa: B023
            self.clickhouse.freeze()
            if not all(_is_complete(path) for path in self._parquet_files() - before):
                return driver
            self.clickhouse.go_on()
            assert driver.end() == 0, driver.output()
            self.feed()

    def _parquet_files(self) -> set[Path]:
        return set(self._data.rglob("*.parquet"))

    @cached_property
    def _data(self) -> Path:
        return Path(self.bench.iceberg().location().removeprefix("file:")) / "data"

    def require_refused(self, driver: RunningDriver) -> None:
        """The driver ends with one line that says why, and without a claim that it did anything."""
        assert driver.end() == 1, driver.output()
        output = driver.output()
        assert output.count('event="offload stopped"') == 1, output
        # Spark logs the tracebacks of its workers; the driver has none of its own.
        assert f'File "{offload.__file__}"' not in output

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
        for driver in self._drivers:
            driver.wait_until_gone()
        assert self._left_over() == set()
        self.concluded = True

    def _left_over(self) -> set[Path]:
        """Files among the table's data that no snapshot has."""
        files = self.bench.iceberg().inspect.all_data_files()["file_path"].to_pylist()
        committed = {Path(file.removeprefix("file:")) for file in files}
        # Hadoop's local file system keeps a checksum beside each file that Spark writes.
        checksums = {path.with_name(f".{path.name}.crc") for path in committed}
        there = {path for path in self._data.rglob("*") if path.is_file()}
        assert committed <= there
        return there - committed - checksums

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


def _is_complete(parquet: Path) -> bool:
    """Whether a file has its footer."""
    return parquet.read_bytes()[-4:] == b"PAR1"

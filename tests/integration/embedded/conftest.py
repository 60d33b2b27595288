"""One ClickHouse server and one PostgreSQL for all tests of the embedded engines."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import clickhouse_connect
import pytest

from k2.embedded import clickhouse
from k2.embedded.state import free_port

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

USER, PASSWORD = "k2", "a pass:word"  # pragma: allowlist secret


@dataclass
class ClickHouse:
    data: Path
    port: int
    process: subprocess.Popen[bytes]

    def client(self, **options: Any) -> Any:
        return clickhouse_connect.get_client(
            host="127.0.0.1", port=self.port, username=USER, password=PASSWORD, **options
        )

    def peak_memory(self) -> int:
        """The highest resident memory since the last call, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return int(line.split()[1]) * 1024


def run_clickhouse(directory: Path, port: int | None = None) -> ClickHouse:
    port = port or free_port()
    log = directory / "clickhouse.log"
    process = clickhouse.start(directory / "data", log, port, USER, PASSWORD)
    clickhouse.wait_until_ready(process, port, log)
    return ClickHouse(directory / "data", port, process)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouse]:
    running = run_clickhouse(tmp_path_factory.mktemp("clickhouse"))
    yield running
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(60) == 0


@pytest.fixture
def client(server: ClickHouse) -> Iterator[Any]:
    """A client with a database of its own."""
    with server.client() as admin:
        admin.command("drop database if exists test sync")
        admin.command("create database test")
    with server.client(database="test") as connected:
        yield connected


@pytest.fixture
def throwaway(tmp_path: Path) -> Iterator[Callable[[], ClickHouse]]:
    """Start servers on one directory of their own; those still running are killed in the end."""
    started: list[ClickHouse] = []

    def start() -> ClickHouse:
        started.append(run_clickhouse(tmp_path))
        return started[-1]

    yield start
    for running in started:
        running.process.kill()
        running.process.wait()

"""Somebody at a terminal: the stack in a folder of its own, started, asked and stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from k2 import airflow_client
from k2.embedded.state import read_state
from k2.offload.catalog import load_table, open_catalog
from k2.registry import registry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pyiceberg.table import Table as IcebergTable

    from k2.embedded.state import StackState
    from k2.settings import Settings

K2 = str(Path(sys.executable).parent / "k2")
TABLES = [table.name for table in registry().tables]


@dataclass(frozen=True)
class User:
    """Somebody at a terminal, with the stack's folder and variables of one's own."""

    directory: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        ports = {f"K2_{name}_PORT": "0" for name in ("CLICKHOUSE", "POSTGRES", "AIRFLOW")}
        # Runs are triggered here, so that none begins in the middle of a comparison.
        schedules = {"K2_SCHEDULE": "", "K2_MAINTENANCE_SCHEDULE": ""}
        own = {"K2_STATE": str(self.directory), **schedules, **self.variables}
        return {**os.environ, **ports, **own}

    @property
    def state(self) -> StackState:
        state = read_state(self.directory)
        assert state is not None
        return state

    @property
    def settings(self) -> Settings:
        return self.state.settings(self.directory)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [K2, *arguments], env=self.environment, capture_output=True, text=True, timeout=600
        )

    def must(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def stack(self) -> Iterator[subprocess.Popen[str]]:
        """The stack while it is up; whoever does not stop it kills its supervisor."""
        command = [K2, "up"]
        up = subprocess.Popen(command, env=self.environment, stderr=subprocess.PIPE, text=True)
        try:
            _wait_until_up(up)
            yield up
        finally:
            up.kill()
            up.wait()

    def rows(self, query: str) -> list[list[Any]]:
        answer = self.must("sql", f"{query} format JSONCompactEachRow")
        return [json.loads(line, parse_float=Decimal) for line in answer.splitlines()]

    def contents(self) -> dict[str, Any]:
        """Every table's rows and the number that stands for all their values."""
        return {
            table: self.rows(f"select count(), sum(cityHash64(*)) from k2.{table} final")
            for table in TABLES
        }

    def iceberg(self, table: str) -> IcebergTable:
        return load_table(open_catalog(self.settings), self.settings, table)

    def lake(self) -> dict[str, tuple[int, int]]:
        """Every Iceberg table's rows and snapshots."""
        tables = {table: self.iceberg(table) for table in TABLES}
        return {
            name: (table.scan().count(), len(table.snapshots())) for name, table in tables.items()
        }

    def airflow(self) -> airflow_client.Airflow:
        address = f"http://127.0.0.1:{self.state.airflow_port}"
        return airflow_client.login(address, "admin", self.state.airflow_password)

    def processes(self) -> list[psutil.Process]:
        """Every process that has the state folder in its environment."""
        return [p for p in psutil.process_iter() if _state_folder(p) == str(self.directory)]


def _wait_until_up(process: subprocess.Popen[str]) -> None:
    lines = []
    for line in process.stderr or ():
        lines.append(line)
        if "Stop with Ctrl-C" in line:
            return
    pytest.fail("the stack did not come up:\n" + "".join(lines))


def _state_folder(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("K2_STATE")
    except psutil.Error:
        return None

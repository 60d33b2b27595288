"""A ClickHouse server for all dbt tests, and a database for each module of them."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from k2.clickhouse import connect
from k2.embedded.clickhouse import start, wait_until_ready
from k2.embedded.state import free_port
from k2.ingest.bronze import create_bronze
from k2.registry import registry
from k2.settings import ClickHouse, Lake, Postgres, Settings
from k2.transform import run_dbt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

PROJECT = Path(__file__).resolve().parents[3]
GOLD_TABLES = tuple(table.name for table in registry().tables if table.layer == "gold")

BRONZE_COLUMNS = (
    "exchange_timestamp",
    "sequence_number",
    "symbol",
    "side",
    "price",
    "quantity",
    "quote_volume",
    "event_time",
    "kafka_offset",
    "kafka_partition",
)


@dataclass(frozen=True)
class Warehouse:
    """One database with Bronze in it, and dbt pointed at it."""

    settings: Settings
    state: Path

    @property
    def database(self) -> str:
        return self.settings.clickhouse.database

    def dbt(self, *arguments: str) -> str:
        """Run dbt; its output."""
        lines: list[str] = []
        run_dbt(arguments, self.settings, state=self.state, on_line=lines.append)
        return "".join(lines)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a query; its tables are those of this database."""
        with connect(self.settings.clickhouse) as client:
            return [tuple(row) for row in client.query(sql).result_rows]

    def command(self, sql: str) -> None:
        with connect(self.settings.clickhouse) as client:
            client.command(sql)

    def feed(self, exchange: str, trades: Iterable[Sequence[object]]) -> None:
        """Insert one batch of Bronze rows, in the order of BRONZE_COLUMNS."""
        with connect(self.settings.clickhouse) as client:
            client.insert(f"bronze_trades_{exchange}", list(trades), column_names=BRONZE_COLUMNS)

    def fingerprint(self) -> dict[str, tuple[Any, ...]]:
        """Rows, checksum of all columns and newest version of every table, as it is read."""
        newest = dict.fromkeys(GOLD_TABLES, "max(settled_at)") | {"silver_trades": "null"}
        return {
            table: self.query(
                f"select count(), groupBitXor(cityHash64(*)), {version} from {table} final"
            )[0]
            for table, version in newest.items()
        }


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    directory = tmp_path_factory.mktemp("clickhouse")
    port = free_port()
    settings = Settings(
        clickhouse=ClickHouse("127.0.0.1", port, "k2", "secret"),
        postgres=Postgres("127.0.0.1", 1, "unused", "unused"),
        lake=Lake("file:/unused"),
    )
    process = start(directory / "data", directory / "log", port, "k2", "secret")
    try:
        wait_until_ready(process, port, directory / "log")
        yield settings
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture(scope="module")
def warehouse(
    request: pytest.FixtureRequest, server: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Warehouse:
    """A fresh database, named like the module, with empty Bronze tables."""
    database = request.module.__name__.rsplit(".", 1)[-1]
    with connect(server.clickhouse, database="default") as client:
        create_bronze(client, registry(), queue="embedded", database=database)
    settings = replace(server, clickhouse=replace(server.clickhouse, database=database))
    return Warehouse(settings, tmp_path_factory.mktemp(database))

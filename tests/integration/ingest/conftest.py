"""Real engines for the ingest tests: one ClickHouse and one PostgreSQL, a database a test."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from k2.clickhouse import connect
from k2.embedded import broker as kafka
from k2.embedded import clickhouse as clickhouse_server
from k2.embedded import postgres as postgres_server
from k2.embedded.state import free_port
from k2.ingest.bronze import create_bronze
from k2.registry import registry
from k2.settings import ClickHouse, Postgres

from .kafka import KafkaServer, Topics

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from clickhouse_connect.driver.client import Client

PASSWORD = "ingest"  # pragma: allowlist secret
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of an embedded ClickHouse, in no particular database."""
    directory = tmp_path_factory.mktemp("clickhouse")
    port, log = free_port(), directory / "log"
    process = clickhouse_server.start(directory / "data", log, port, "k2", PASSWORD)
    try:
        clickhouse_server.wait_until_ready(process, port, log)
        yield connect(ClickHouse("127.0.0.1", port, "k2", PASSWORD), database="default")
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="session")
def conninfo() -> Iterator[str]:
    """The database `k2` of an embedded PostgreSQL."""
    # Not below pytest's own directory: every other run of root's closes that to the server's user.
    with tempfile.TemporaryDirectory(prefix="k2-postgres-") as name:
        directory = Path(name)
        port, data = free_port(), directory / "data"
        postgres_server.start(data, directory / "log", port, PASSWORD)
        try:
            postgres_server.create_databases(["k2"], port, PASSWORD)
            yield Postgres("127.0.0.1", port, postgres_server.USER, PASSWORD).conninfo("k2")
        finally:
            postgres_server.stop(data)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A Kafka broker."""
    server = KafkaServer(kafka.start(tmp_path_factory.mktemp("kafka")))
    try:
        yield server
    finally:
        kafka.stop(server.broker)


@pytest.fixture
def topics(server: KafkaServer, tmp_path: Path) -> Topics:
    """The topics of both exchanges, new ones with three partitions each, and their registry."""
    return Topics.create(server, tmp_path / "registry", next(_numbers))


@dataclass(frozen=True)
class Bronze:
    """A database with bronze of both exchanges, fed from embedded queues."""

    client: Client
    database: str

    def send(
        self, exchange: str, messages: Sequence[str], *, first_offset: int = 0, error: str = ""
    ) -> None:
        """Deliver messages of partition 1; with `error`, as ones the engine could not read."""
        offsets = range(first_offset, first_offset + len(messages))
        self.client.insert(
            f"trades_{exchange}_queue",
            [
                ("" if error else text, "topic", 1, offset, text if error else "", error)
                for offset, text in zip(offsets, messages, strict=True)
            ],
            column_names=["message", "_topic", "_partition", "_offset", "_raw_message", "_error"],
            database=self.database,
        )

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """The rows of a query; `{db}` in it is the database."""
        result = self.client.query(query.replace("{db}", self.database))
        return [tuple(row) for row in result.result_rows]

    def reasons(self) -> list[tuple[object, ...]]:
        """Offset and reason of every dead letter."""
        return self.rows(
            "select kafka_offset, reason from {db}.dead_letters final order by kafka_offset, reason"
        )


@pytest.fixture
def bronze(clickhouse: Client) -> Iterator[Bronze]:
    database = f"k2_ingest_{next(_numbers)}"
    create_bronze(clickhouse, registry(), queue="embedded", database=database)
    yield Bronze(clickhouse, database)
    clickhouse.command(f"drop database {database} sync", use_database=False)

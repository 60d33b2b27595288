"""One ClickHouse and one PostgreSQL, with the watermarks in it, for all tests of the offload."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from k2.clickhouse import connect
from k2.embedded import clickhouse, postgres
from k2.embedded.state import free_port
from k2.offload import watermark
from k2.settings import ClickHouse, Lake, Postgres, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD = "a secret: 100%"  # pragma: allowlist secret


@pytest.fixture(scope="session")
def offload_clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouse]:
    """A running ClickHouse with an empty database `k2`."""
    directory = tmp_path_factory.mktemp("clickhouse")
    settings = ClickHouse("127.0.0.1", free_port(), "k2", PASSWORD)
    log = directory / "log"
    process = clickhouse.start(directory / "data", log, settings.port, "k2", PASSWORD)
    try:
        clickhouse.wait_until_ready(process, settings.port, log)
        with connect(settings, database="default") as client:
            client.command("create database k2")
        yield settings
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="session")
def offload_postgres() -> Iterator[Postgres]:
    """A running PostgreSQL with the watermarks and an empty Iceberg catalog."""
    settings = Postgres("127.0.0.1", free_port(), postgres.USER, PASSWORD)
    # Not pytest's own directory: run as root, PostgreSQL's user must be able to walk there.
    with tempfile.TemporaryDirectory(prefix="k2-postgres-") as scratch:
        data = Path(scratch) / "data"
        postgres.start(data, Path(scratch) / "log", settings.port, PASSWORD)
        try:
            postgres.create_databases(["k2", "lake"], settings.port, PASSWORD)
            with watermark.connect(settings) as connection:
                watermark.migrate(connection)
            yield settings
        finally:
            postgres.stop(data)


@pytest.fixture(scope="session")
def services(
    offload_clickhouse: ClickHouse,
    offload_postgres: Postgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> Settings:
    """Settings of both, and of an empty lake."""
    lake = tmp_path_factory.mktemp("somebody's lake, 100%25")
    return Settings(offload_clickhouse, offload_postgres, Lake(f"file:{lake}"))

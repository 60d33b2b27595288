"""The engines of the crash matrix, the choice of its cases, and the table at the end."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.integration.conftest import PASSWORD, free_port
from tests.integration.offload.conftest import COLUMNS, ENGINES, EXAMPLES
from tests.integration.offload.conftest import jvm as jvm

from k2.clickhouse import connect
from k2.embedded import postgres, spark
from k2.embedded.jars import JARS_DIRECTORY, fetch
from k2.embedded.java import java_home
from k2.offload import watermark
from k2.registry import registry
from k2.settings import ClickHouse, Lake, Postgres, Settings

from .case import Bench, Case
from .driver import write_registry
from .feed import FEEDS
from .report import Outcome, lines
from .servers import ClickHouseServer, PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _pytest.terminal import TerminalReporter

    from k2.registry import Table

# Of a report's properties, which reach the one who prints from whichever process ran the case.
OUTCOME = "outcome"

_numbers = itertools.count(1)


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    """Print what the cases that ran have shown."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    outcomes = [
        Outcome(**value)
        for report in reports
        for name, value in getattr(report, "user_properties", [])
        if name == OUTCOME and report.when == "teardown"
    ]
    if outcomes:
        terminalreporter.section("crash matrix")
        for line in lines(outcomes):
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def clickhouse_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    directory = tmp_path_factory.mktemp("clickhouse")
    settings = ClickHouse("127.0.0.1", free_port(), "k2", PASSWORD)
    server = ClickHouseServer(directory, settings)
    server.start()
    try:
        with connect(settings, database="default") as client:
            client.command("create database k2")
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    settings = Postgres("127.0.0.1", free_port(), postgres.USER, PASSWORD)
    # Not pytest's own directory: run as root, PostgreSQL's user must be able to walk there.
    with tempfile.TemporaryDirectory(prefix="k2-postgres-") as scratch:
        server = PostgresServer(Path(scratch), settings)
        server.start()
        try:
            postgres.create_databases(["k2", "lake"], settings.port, PASSWORD)
            with watermark.connect(settings) as connection:
                watermark.migrate(connection)
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def services(
    clickhouse_server: ClickHouseServer,
    postgres_server: PostgresServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Settings:
    """Settings of both, and of an empty lake."""
    lake = tmp_path_factory.mktemp("somebody's lake, 100%25")
    return Settings(clickhouse_server.settings, postgres_server.settings, Lake(f"file:{lake}"))


@pytest.fixture(scope="session")
def java(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which spark-submit finds Java, Iceberg and its configuration."""
    configuration, home = tmp_path_factory.mktemp("spark"), java_home()
    fetch(JARS_DIRECTORY, home)
    spark.configure(configuration, JARS_DIRECTORY, home)
    return spark.spark_environment(configuration, home)


@pytest.fixture
def make_case(
    request: pytest.FixtureRequest,
    services: Settings,
    clickhouse_server: ClickHouseServer,
    jvm: Any,
    java: dict[str, str],
    tmp_path: Path,
) -> Iterator[Callable[..., Case]]:
    """Make the case of a test: a table of a layer, and what happens to its offload where.

    `count` rows a feed over `days` partitions; `columns` come beside the layer's own; `offloaded`
    says whether a batch of it is in the lake already. Other keywords change the registry entry.
    """
    made: list[Case] = []

    def make(
        layer: str,
        transfer: str,
        where: str,
        *,
        count: int = 1200,
        days: int = 3,
        columns: str = "",
        offloaded: bool = True,
        settings: Settings = services,
        **changes: Any,
    ) -> Case:
        table = _registered(layer, transfer, changes)
        client = connect(settings.clickhouse)
        client.command(
            f"create table {table.name} ({COLUMNS[layer]}{columns}) engine = {ENGINES[layer]}"
        )
        bench = Bench(settings, client, jvm, table)
        bench.create_lake_table()
        write_registry(tmp_path / "registry", table)
        name = f"{layer} {table.commit} {transfer}"
        rows = FEEDS[layer](count, days)
        registry = tmp_path / "registry"
        case = Case(name, where, bench, rows, registry, tmp_path, java, clickhouse_server)
        made.append(case)
        case.feed()
        if offloaded:
            # Whichever way its rows go later: a Spark session is not worth it for these.
            bench.with_table(transfer="unload").offload()
            case.feed()
        return case

    yield make
    clickhouse_server.restore()
    for case in made:
        case.clear_away()
        request.node.user_properties.append((OUTCOME, asdict(case.outcome())))
        case.bench.client.close()


def _registered(layer: str, transfer: str, changes: dict[str, Any]) -> Table:
    """A registry entry like that of a real table of the layer, in batches where it can be cut.

    Scans are not cut: each batch is a job of Spark, and takes seconds.
    """
    entry = {"name": f"crash_{layer}_{next(_numbers)}", "transfer": transfer, **changes}
    if layer != "gold" and transfer == "unload":
        entry = {"max_batch_rows": 700, **entry}
    return registry().table(EXAMPLES[layer]).model_copy(update=entry)

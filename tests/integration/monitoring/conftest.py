"""A K2 in which something has happened: both engines, all layers, offloads, audits, a dead letter.

Some tests stop its servers, so they are its own.
"""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.crash.servers import ClickHouseServer, PostgresServer
from tests.integration.conftest import PASSWORD
from tests.integration.offload.conftest import jvm as jvm

from k2.clickhouse import connect
from k2.embedded import postgres
from k2.embedded.state import free_port
from k2.errors import OffloadError
from k2.ingest.simulation import Simulation
from k2.initialise import initialise
from k2.monitoring.exporter import Exporter, exposition
from k2.offload.audit import audit_table
from k2.offload.claim import offload_claim
from k2.offload.engine import Driver, run
from k2.offload.lake import JvmLake
from k2.registry import registry
from k2.settings import ClickHouse, Lake, Postgres, Settings, environment_of
from k2.trades import feed_simulation
from k2.transform import run_dbt

if TYPE_CHECKING:
    from collections.abc import Iterator

# By name, then by labels.
Values = dict[str, dict[tuple[tuple[str, str], ...], float]]

NOT_A_TRADE = "this is not a trade"
# More than one in a hundred messages: the check of Bronze warns.
NOT_TRADES = 200


@dataclass(frozen=True)
class Stack:
    """Engines that can be stopped and started again."""

    settings: Settings
    clickhouse: ClickHouseServer
    postgres: PostgresServer

    def scrape(self, **options: Any) -> Values:
        """The metrics as a scrape gets them now."""
        return parse(exposition(Exporter(self.settings, registry(), **options)))

    @contextmanager
    def serving(self, *arguments: str) -> Iterator[str]:
        """`k2 metrics --serve` as a process of its own; its address, once it answers."""
        address = f"http://127.0.0.1:{free_port()}"
        port = address.rpartition(":")[2]
        command = [sys.executable, "-m", "k2.cli", "metrics", "--serve", "--port", port, *arguments]
        with subprocess.Popen(
            command,
            env={**os.environ, **environment_of(self.settings)},
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stderr is not None
                said = process.stderr.readline()
                assert said == f"metrics at {address}/metrics; stop with Ctrl-C\n"
                yield address
                process.terminate()
                assert process.wait(60) == 0
            finally:
                process.kill()


def parse(text: str) -> Values:
    """Prometheus's text format; a metric without values is there, and empty."""
    values: Values = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        values[name] = {
            tuple(sorted(sample.labels.items())): sample.value for sample in family.samples
        }
    return dict(values)


def of_table(values: Values, metric: str) -> dict[str, float]:
    """The values of a metric by table."""
    return {dict(labels)["table"]: value for labels, value in values[metric].items()}


def metrics_of(address: str) -> Values:
    """The metrics that are served at an address."""
    response = httpx.get(f"{address}/metrics", timeout=60)
    response.raise_for_status()
    return parse(response.text)


@pytest.fixture(scope="session")
def clean_stack() -> Iterator[Stack]:
    """Engines in which nothing has been created yet."""
    # Not pytest's own directory: run as root, PostgreSQL's user must be able to walk there.
    with tempfile.TemporaryDirectory(prefix="k2-monitoring-") as scratch:
        directory = Path(scratch)
        directory.chmod(0o755)
        settings = Settings(
            ClickHouse("127.0.0.1", free_port(), "k2", PASSWORD),
            Postgres("127.0.0.1", free_port(), postgres.USER, PASSWORD),
            Lake(f"file:{directory / 'lake'}"),
        )
        for name in ("clickhouse", "postgres", "lake"):
            (directory / name).mkdir(mode=0o755)
        stack = Stack(
            settings,
            ClickHouseServer(directory / "clickhouse", settings.clickhouse),
            PostgresServer(directory / "postgres", settings.postgres),
        )
        stack.clickhouse.start()
        stack.postgres.start()
        try:
            postgres.create_databases(
                ["k2", "lake"], settings.postgres.port, settings.postgres.password
            )
            yield stack
        finally:
            stack.clickhouse.restore()
            stack.clickhouse.stop()
            stack.postgres.stop()


@pytest.fixture(scope="session")
def stack(clean_stack: Stack, jvm: Any, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """Trades in every layer and in the lake, audited; more of them wait for their offload."""
    settings, state = clean_stack.settings, tmp_path_factory.mktemp("dbt")
    initialise(settings, registry(), queue="embedded", state=state, say=lambda _: None)
    feed(settings, seed=1, trades=6000)
    with connect(settings.clickhouse) as client:
        client.insert(
            "trades_kraken_queue",
            [[NOT_A_TRADE, "topic", 0, number] for number in range(NOT_TRADES)],
            column_names=["message", "_topic", "_partition", "_offset"],
        )
    run_dbt(["run"], settings, state=state, on_line=lambda _: None)
    offload_all(settings, jvm)
    for table in registry().tables:
        audit_table(settings, table)
    feed(settings, seed=2, trades=600)
    return clean_stack


def feed(settings: Settings, *, seed: int, trades: int) -> None:
    """Simulated trades of every exchange, a few hours of them."""
    simulation = Simulation(seed, trades, hours=3)
    for _ in feed_simulation(settings, registry(), simulation, progress=lambda *_: None):
        pass


def offload_all(settings: Settings, jvm: Any) -> None:
    """Offload every table; one fails first."""
    lake = JvmLake(jvm, settings)
    with (
        pytest.raises(OffloadError, match="on purpose"),
        offload_claim(settings.postgres, registry().tables[0].name),
    ):
        raise OffloadError("stopped on purpose")
    for table in registry().tables:
        with (
            offload_claim(settings.postgres, table.name) as held,
            connect(settings.clickhouse) as client,
        ):
            run(Driver(client, lake.load(table.name), held, table, _now, _no_spark))


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _no_spark() -> Any:
    raise AssertionError("no table of the registry is transferred by scan")

"""The path that the freshness benchmark measures: a broker, `k2 ingest` and a ClickHouse, all real.

They run on a directory of their own and are stopped, their data removed, whatever ends the block.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psutil
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from k2.clickhouse import connect
from k2.embedded import broker as kafka
from k2.embedded import processes
from k2.embedded.stack import start_clickhouse
from k2.embedded.state import FREE_PORTS, PROJECT, only_stack, prepare_state
from k2.errors import StackError
from k2.ingest.bronze import create_bronze
from k2.registry import registry
from k2.settings import environment_of
from k2.transform import TransformError, dbt_environment, run_dbt, run_dbt_here

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.synchronize import Event
    from pathlib import Path

    from k2.settings import Settings

PARTITIONS: Final = 4
_DATA: Final = ("clickhouse", "broker/data", "dbt")
_JOIN_SECONDS: Final = 60
_JOIN_LOOK_SECONDS: Final = 0.2


@dataclass(frozen=True)
class IngestPath:
    """A running path: how to reach its ends, and the processes it consists of."""

    directory: Path
    settings: Settings
    brokers: str
    processes: dict[str, psutil.Process]

    def require_alive(self) -> None:
        """Raise StackError when a process has ended."""
        for name, process in self.processes.items():
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                logs = self.directory / "logs"
                raise StackError(f"{name} ended in the middle of the run; see the logs in {logs}")


@contextmanager
def running_path(
    directory: Path, *, interval: float, say: Callable[[str], object]
) -> Iterator[IngestPath]:
    """Start the path on a directory of its own; SIGTERM ends the block as Ctrl-C does.

    Args:
        interval: seconds between two inserts of an exchange, at least.

    Raises:
        StackError: a part of it does not start.
        TransformError: dbt failed.
    """
    with only_stack(directory), processes.terminated_like_interrupted():
        _clear(directory)
        state = prepare_state(directory, FREE_PORTS)
        settings = state.settings(directory)
        started: dict[str, psutil.Process] = {}
        try:
            say("broker and ClickHouse start ...")
            started["clickhouse"] = psutil.Process(start_clickhouse(directory, state))
            broker = kafka.start(directory / "broker")
            started["broker"] = _noted(directory, broker.process.pid)
            kafka.create_topics(
                broker.address, {exchange.topic: PARTITIONS for exchange in registry().exchanges}
            )
            say("dbt builds silver and gold ...")
            _create_tables(settings, directory)
            started["ingest"] = _start_ingest(directory, settings, broker.address, interval)
            _wait_until_joined(broker.address, started["ingest"])
            yield IngestPath(directory, settings, broker.address, started)
        finally:
            _clear(directory)


def settle(settings: Settings, state: Path, log: Path, go: Event, reports: Connection) -> None:
    """Build and test Silver and Gold as the DAG does, without its offloads, once `go` is set.

    dbt is imported before, as in the process that the DAG's tasks are forked from. Reports None, or
    in one line what failed.
    """
    import dbt.cli.main  # noqa: F401

    os.environ.update(dbt_environment(settings, state))
    with log.open("a") as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
    go.wait()
    try:
        run_dbt_here(["build", "--exclude-resource-type", "unit_test"])
    except TransformError as error:
        reports.send(str(error))
    else:
        reports.send(None)


def _create_tables(settings: Settings, directory: Path) -> None:
    with connect(settings.clickhouse, database="default") as client:
        create_bronze(client, registry(), queue="embedded", database=settings.clickhouse.database)
    run_dbt(
        ["build", "--quiet", "--resource-type", "seed", "--resource-type", "model"],
        settings,
        state=directory / "dbt",
        on_line=lambda _line: None,
    )


def _start_ingest(
    directory: Path, settings: Settings, brokers: str, interval: float
) -> psutil.Process:
    command = [sys.executable, "-m", "k2.cli", "ingest", "--brokers", brokers]
    started = processes.start(
        [*command, "--interval", str(interval)],
        log=directory / "logs" / "ingest.log",
        environment=os.environ | environment_of(settings),
        directory=PROJECT,
    )
    return _noted(directory, started.pid)


def _wait_until_joined(brokers: str, ingest: psutil.Process) -> None:
    """Until every exchange's consumer group has a member that holds partitions."""
    admin = AdminClient({"bootstrap.servers": brokers, "log_level": 0})
    groups = [exchange.consumer_group for exchange in registry().exchanges]
    deadline = time.monotonic() + _JOIN_SECONDS
    while not all(_holds_partitions(admin, group) for group in groups):
        if ingest.status() == psutil.STATUS_ZOMBIE or time.monotonic() > deadline:
            raise StackError("k2 ingest does not join its consumer groups; see logs/ingest.log")
        time.sleep(_JOIN_LOOK_SECONDS)


def _holds_partitions(admin: AdminClient, group: str) -> bool:
    try:
        members = admin.describe_consumer_groups([group])[group].result().members
    except KafkaException:
        return False
    return any(member.assignment.topic_partitions for member in members)


def _noted(directory: Path, process: int) -> psutil.Process:
    processes.note(directory, process)
    return psutil.Process(process)


def _clear(directory: Path) -> None:
    processes.stop_noted(directory)
    for name in _DATA:
        shutil.rmtree(directory / name, ignore_errors=True)

"""The whole stack on one machine, without Docker: PostgreSQL, ClickHouse, Airflow."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import psutil

from k2 import airflow_client
from k2.embedded import airflow, clickhouse, postgres, processes, spark
from k2.embedded.jars import fetch_for
from k2.embedded.java import java_home
from k2.embedded.state import (
    HOST,
    PROJECT,
    USER,
    StackState,
    only_stack,
    prepare_state,
    running_owner,
)
from k2.errors import StackError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from k2.settings import Settings

AIRFLOW_READY_SECONDS = 120
DATABASES = ("k2", "lake", "airflow")
DAGS = ("medallion", "maintenance")
OBJECT_STORE_ACCESS = PROJECT / "include" / "clickhouse" / "server" / "object_store.xml"


@dataclass(frozen=True)
class Stack:
    """A running stack."""

    state: StackState
    directory: Path
    java: Path

    @property
    def settings(self) -> Settings:
        return self.state.settings(self.directory)

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which tasks run."""
        return airflow.airflow_environment(self.state, self.directory, self.java)

    @property
    def airflow_address(self) -> str:
        return f"http://{HOST}:{self.state.airflow_port}"

    def airflow(self) -> airflow_client.Airflow:
        """A logged-in client of its Airflow."""
        return airflow_client.login(self.airflow_address, airflow.USER, self.state.airflow_password)


@contextmanager
def running_engines(
    directory: Path, say: Callable[[str], None], environment: Mapping[str, str] = os.environ
) -> Iterator[Stack]:
    """PostgreSQL and ClickHouse, for the duration of the block; then no process is left behind.

    `environment` says which ports, as `prepare_state` reads them.

    Raises:
        StackError: a port is in use, a stack is already running, or an engine does not start.
    """
    with only_stack(directory):
        if left := _stop_everything(directory):
            say(f"stopped {left} processes that an earlier, killed run had left")
        java = java_home()
        stack = Stack(prepare_state(directory, environment), directory, java)
        jars = fetch_for(stack.settings.lake, java)
        spark.configure(directory / "spark", jars, java, say)
        with processes.terminated_like_interrupted():
            try:
                _start_engines(stack, say)
                yield stack
            finally:
                _stop_everything(directory)


def start_airflow(
    stack: Stack,
    say: Callable[[str], None],
    *,
    scheduled: bool,
    dags: Sequence[str] = DAGS,
    variables: Mapping[str, str] | None = None,
) -> None:
    """Start Airflow's services and wait until the DAGs are known.

    Not `scheduled`, a DAG runs only when it is triggered. `variables` are added to the services'
    environment, and so to that of every task.

    Raises:
        StackError: a service ends or does not answer; the message names its log.
    """
    say("airflow starts (half a minute) ...")
    started = time.monotonic()
    environment = {**stack.environment, **(variables or {})}
    if not scheduled:
        environment |= {"K2_SCHEDULE": "", "K2_MAINTENANCE_SCHEDULE": ""}
    airflow.prepare(stack.state, stack.directory, environment)
    services: dict[str, subprocess.Popen[bytes]] = {}
    for name, arguments in airflow.SERVICES.items():
        log = stack.directory / "logs" / f"airflow-{name}.log"
        services[name] = processes.start(
            airflow.airflow_command(*arguments),
            log=log,
            environment=environment,
            directory=PROJECT,
        )
        processes.note(stack.directory, services[name].pid)
    _wait_for_airflow(stack, services, dags)
    say(f"airflow     {stack.airflow_address}  ({time.monotonic() - started:.0f} s)")


def stop(directory: Path) -> bool:
    """Stop the stack that runs on a folder, wherever it was started; whether there was one."""
    owner = running_owner(directory)
    if owner is None:
        return _stop_everything(directory) > 0
    os.kill(owner, signal.SIGTERM)
    deadline = time.monotonic() + 120
    while running_owner(directory) == owner:
        if time.monotonic() > deadline:
            raise StackError(f"process {owner} does not stop; end it with 'kill -9 {owner}'")
        time.sleep(0.1)
    return True


def clickhouse_process(stack: Stack) -> psutil.Process:
    """The server of a running stack.

    Raises:
        StackError: it is not running.
    """
    data = str(stack.directory / "clickhouse")
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "k2.embedded.clickhouse" in command and data in command:
            return process
    raise StackError(f"no ClickHouse is running on {data}")


def restart_clickhouse(stack: Stack) -> None:
    """Kill ClickHouse where it stands, and start it again on the same data."""
    process = clickhouse_process(stack)
    process.kill()
    process.wait()
    start_clickhouse(stack.directory, stack.state)


def restart_postgres(stack: Stack) -> None:
    """Stop PostgreSQL under its clients, and start it again."""
    postgres.stop(stack.directory / "postgres")
    _start_postgres(stack)


def _start_engines(stack: Stack, say: Callable[[str], None]) -> None:
    started = time.monotonic()
    _start_postgres(stack)
    postgres.create_databases(DATABASES, stack.state.postgres_port, stack.state.postgres_password)
    say(f"postgresql  {HOST}:{stack.state.postgres_port}  ({time.monotonic() - started:.0f} s)")
    started = time.monotonic()
    start_clickhouse(stack.directory, stack.state)
    address = f"http://{HOST}:{stack.state.clickhouse_port}"
    say(f"clickhouse  {address}  ({time.monotonic() - started:.0f} s)")


def _start_postgres(stack: Stack) -> None:
    postgres.start(
        stack.directory / "postgres",
        stack.directory / "logs" / "postgres.log",
        stack.state.postgres_port,
        stack.state.postgres_password,
    )


def start_clickhouse(directory: Path, state: StackState) -> int:
    """Start ClickHouse on the folder of a stack, noted there, and wait until it answers; its id.

    Raises:
        StackError: it does not start; the message names its log.
    """
    log = directory / "logs" / "clickhouse.log"
    server = clickhouse.start(
        directory / "clickhouse",
        log,
        state.clickhouse_port,
        USER,
        state.clickhouse_password,
        configuration=OBJECT_STORE_ACCESS if state.lake else None,
        environment={**os.environ, **state.lake},
    )
    processes.note(directory, server.pid)
    clickhouse.wait_until_ready(server, state.clickhouse_port, log)
    return server.pid


def _wait_for_airflow(
    stack: Stack, services: Mapping[str, subprocess.Popen[bytes]], dags: Sequence[str]
) -> None:
    deadline = time.monotonic() + AIRFLOW_READY_SECONDS
    logs = stack.directory / "logs"
    while not _know(stack, dags):
        for name, process in services.items():
            if process.poll() is not None:
                raise StackError(f"airflow {name} ended at once; see {logs}/airflow-{name}.log")
        if time.monotonic() > deadline:
            raise StackError(f"airflow did not become ready; see the logs in {logs}")
        time.sleep(0.5)


def _know(stack: Stack, dags: Sequence[str]) -> bool:
    try:
        return all(stack.airflow().has_dag(dag) for dag in dags)
    except (StackError, httpx.HTTPError):
        return False


def _stop_everything(directory: Path) -> int:
    stopped = processes.stop_noted(directory)
    if postgres.is_running(directory / "postgres"):
        postgres.stop(directory / "postgres")
        stopped += 1
    return stopped

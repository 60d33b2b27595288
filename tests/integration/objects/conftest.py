"""A K2 whose lake is in a real S3 server, versitygw, with jobs as spark-submit starts them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.stack_folder import stack_folder

from k2.clickhouse import connect
from k2.embedded import versitygw
from k2.embedded.go import find_go
from k2.embedded.stack import running_engines
from k2.embedded.state import FREE_PORTS, HOST, free_port
from k2.ingest.messages import messages
from k2.ingest.replay import feed
from k2.ingest.simulation import Simulation
from k2.ingest.simulator import simulate
from k2.initialise import initialise
from k2.jobs import offload_command
from k2.offload import watermark
from k2.offload.catalog import load_table, open_catalog
from k2.registry import registry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from k2.embedded.stack import Stack
    from k2.ingest.trade import Trade

BUCKET = "market-data"
REGION = "eu-test-1"
# Nothing else may look like them.
KEY = "KEYTHATNOBODYSEES001"
SECRET = "secret-that-nobody-sees-0001"  # pragma: allowlist secret
KEYS = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
# Trades of an hour at a time.
TRADES, HOURS = 12_000, 30


@dataclass
class ObjectStore:
    """The S3 server; each folder below `data` is a bucket, its files are the objects."""

    program: Path
    data: Path
    log: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        self.process = versitygw.start(
            self.program, self.data, self.log, self.port, region=REGION, key=KEY, secret=SECRET
        )
        while not _answers(self.port):
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)

    def freeze(self) -> None:
        """It takes connections and answers none."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @contextmanager
    def without_its_bucket(self) -> Iterator[None]:
        """As if somebody had deleted it, and made it again from a backup."""
        aside = self.data.with_name("aside")
        (self.data / BUCKET).rename(aside)
        try:
            yield
        finally:
            aside.rename(self.data / BUCKET)

    def objects(self, prefix: str) -> set[str]:
        """The keys below a prefix."""
        folder = self.data / BUCKET / prefix
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.data / BUCKET)) for path in files}


def _answers(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


@dataclass(frozen=True)
class Run:
    """What a job printed, and how it ended."""

    status: int
    output: str

    @property
    def last_line(self) -> str:
        return self.output.splitlines()[-1]


@dataclass
class Lakehouse:
    """The stack, its object store, and the trades that are still to come."""

    stack: Stack
    store: ObjectStore
    trades: Iterator[list[Trade]]
    outputs: list[str] = field(default_factory=list)

    def feed(self, hours: int = 1) -> None:
        """The trades of the next hours arrive on both exchanges."""
        arrived = [trade for _ in range(hours) for trade in next(self.trades)]
        settings = self.stack.settings
        with connect(settings.clickhouse) as client:
            for exchange in registry().exchanges:
                own = [trade for trade in arrived if trade.exchange == exchange.name]
                conninfo = settings.postgres.conninfo(watermark.DATABASE)
                feed(
                    client,
                    registry(),
                    exchange.name,
                    messages(exchange.name, iter(own)),
                    conninfo=conninfo,
                )

    def start(self, command: list[str], **variables: str) -> subprocess.Popen[str]:
        """Start a job, with variables beside those that every task has."""
        return subprocess.Popen(
            command,
            env={**self.stack.environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def end(self, job: subprocess.Popen[str]) -> Run:
        output, _ = job.communicate(timeout=240)
        self.outputs.append(output)
        return Run(job.returncode, output)

    def run(self, command: list[str], **variables: str) -> Run:
        return self.end(self.start(command, **variables))

    def offload(self, table: str, **variables: str) -> Run:
        return self.run(offload_command(table, cores=1), **variables)

    def location(self, table: str) -> str:
        settings = self.stack.settings
        return load_table(open_catalog(settings), settings, table).location()

    def data_prefix(self, table: str) -> str:
        return f"{self.location(table).removeprefix(f's3://{BUCKET}/')}/data"

    def token(self, table: str) -> str | None:
        """PostgreSQL's copy of the watermark."""
        with watermark.connect(self.stack.settings.postgres) as postgres:
            return watermark.read_watermark(postgres, table).token

    def snapshots(self, table: str) -> int:
        settings = self.stack.settings
        return len(load_table(open_catalog(settings), settings, table).snapshots())


@pytest.fixture(scope="session")
def program() -> Path:
    if not (versitygw.DIRECTORY / "versitygw").exists() and find_go() is None:
        pytest.skip("versitygw is built by Go, which is not installed")
    return versitygw.program()


@pytest.fixture(scope="session")
def store(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    directory = tmp_path_factory.mktemp("objects")
    (directory / "data" / BUCKET).mkdir(parents=True)
    server = ObjectStore(program, directory / "data", directory / "log")
    server.start()
    try:
        yield server
    finally:
        server.kill()
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def arguments_seen() -> Iterator[set[str]]:
    """Every argument of every process that ran meanwhile, as far as a look each moment sees."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            for process in psutil.process_iter(["cmdline"]):
                seen.update(process.info["cmdline"] or ())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield seen
    over.set()
    thread.join()


@pytest.fixture(scope="session")
def environment(store: ObjectStore) -> Mapping[str, str]:
    """What somebody exports who wants the lake there."""
    return {
        **FREE_PORTS,
        **KEYS,
        "K2_LAKE_WAREHOUSE": f"s3://{BUCKET}/crypto/lake",
        "K2_LAKE_ENDPOINT": store.address,
        "K2_LAKE_REGION": REGION,
        # No test waits for a cloud that is not there.
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture(scope="session")
def lakehouse(
    store: ObjectStore, environment: Mapping[str, str], arguments_seen: set[str]
) -> Iterator[Lakehouse]:
    """The stack with all its tables, and nothing in them."""
    with pytest.MonkeyPatch.context() as patch, stack_folder() as directory:
        for name, value in environment.items():
            patch.setitem(os.environ, name, value)
        said: list[str] = []
        with running_engines(directory, said.append) as stack:
            initialise(
                stack.settings,
                registry(),
                queue="embedded",
                state=directory / "dbt",
                say=said.append,
            )
            yield Lakehouse(stack, store, _hours(), said)


def _hours() -> Iterator[list[Trade]]:
    """Simulated trades, a list for each hour."""
    simulation = Simulation(trades=TRADES, hours=HOURS)
    trades = list(simulate(simulation.seed, simulation.trades, simulation.start, simulation.hours))
    start = trades[0].timestamp_us
    for hour in range(HOURS):
        first, end = (start + number * 3_600_000_000 for number in (hour, hour + 1))
        yield [trade for trade in trades if first <= trade.timestamp_us < end]

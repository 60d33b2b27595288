"""The embedded PostgreSQL: started, found, killed, and started again."""

from __future__ import annotations

import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
import pytest

from k2.embedded import postgres
from k2.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Running:
    data: Path
    log: Path
    port: int
    password: str

    def start(self) -> None:
        postgres.start(self.data, self.log, self.port, self.password)

    def ask(self, query: str, database: str = "k2") -> list[Any]:
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user="k2", password=self.password, dbname=database
        ) as connection:
            return connection.execute(query.encode()).fetchall()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    # Not pytest's own directory: run as root, PostgreSQL's user must be able to walk there.
    with tempfile.TemporaryDirectory(prefix="k2-postgres-") as scratch:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        running = Running(Path(scratch) / "data", Path(scratch) / "log", port, "it's a 'secret'")
        running.start()
        postgres.create_databases(["k2", "lake", "airflow"], port, running.password)
        yield running
        postgres.stop(running.data)
        assert not postgres.is_running(running.data)


def test_starting_and_creating_twice_is_fine(server: Running) -> None:
    server.start()
    postgres.create_databases(["k2", "lake", "airflow"], server.port, server.password)
    found = server.ask("select datname from pg_database where not datistemplate order by 1")
    assert [name for (name,) in found] == ["airflow", "k2", "lake", "postgres"]


def test_it_is_version_18_durable_and_roomy(server: Running) -> None:
    settings = (
        "('fsync', 'synchronous_commit', 'full_page_writes', 'password_encryption', 'TimeZone')"
    )
    values = dict(server.ask(f"select name, setting from pg_settings where name in {settings}"))
    assert values == {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "password_encryption": "scram-sha-256",
        "TimeZone": "UTC",
    }
    [(version, connections)] = server.ask(
        "select current_setting('server_version_num')::int / 10000,"
        " current_setting('max_connections')::int"
    )
    assert version == 18
    assert connections >= 100


def test_it_listens_on_loopback_only(server: Running) -> None:
    pid = int((server.data / "postmaster.pid").read_text().splitlines()[0])
    sockets = psutil.Process(pid).net_connections("all")
    listening = [each.laddr for each in sockets if each.status == psutil.CONN_LISTEN]
    assert [tuple(address) for address in listening] == [("127.0.0.1", server.port)]


def test_a_wrong_password_does_not_get_in(server: Running) -> None:
    with pytest.raises(postgres.PostgresError, match="password authentication failed"):
        postgres.create_databases(["other"], server.port, "wrong")


def test_a_killed_server_comes_back_with_what_was_committed(server: Running) -> None:
    with psycopg.connect(
        host="127.0.0.1", port=server.port, user="k2", password=server.password, dbname="k2"
    ) as connection:
        connection.execute("create table committed as select 1 as a")
    pid = int((server.data / "postmaster.pid").read_text().splitlines()[0])
    psutil.Process(pid).kill()
    while postgres.is_running(server.data):
        pass
    server.start()
    assert server.ask("select a from committed") == [(1,)]


def test_a_pid_file_that_names_another_process_is_stale(server: Running) -> None:
    postgres.stop(server.data)
    lines = ["1", str(server.data), "0", str(server.port), "", "127.0.0.1", "0 0", "ready"]
    (server.data / "postmaster.pid").write_text("\n".join(lines))
    assert not postgres.is_running(server.data)
    server.start()
    assert server.ask("select 1") == [(1,)]


def test_a_half_made_directory_is_made_anew(server: Running) -> None:
    half = server.data.with_name("half")
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    with pytest.raises(StackError, match=f"port {server.port} is in use"):
        postgres.start(half, server.log, server.port, "x")
    assert (half / "base").is_dir()


def test_another_port_of_a_running_server_is_refused(server: Running) -> None:
    with pytest.raises(postgres.PostgresError, match="already runs, on port"):
        postgres.start(server.data, server.log, server.port + 1, server.password)

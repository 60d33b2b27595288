"""`k2 doctor` on real engines: all is well, then one thing after the other is broken and found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from k2.clickhouse import connect
from k2.doctor import clocks, postgres
from k2.doctor.examination import examine
from k2.doctor.result import Outcome, Result
from k2.doctor.surroundings import look_around
from k2.ingest.bronze import create_bronze
from k2.offload import watermark
from k2.offload.catalog import load_table, open_catalog
from k2.registry import registry
from k2.settings import environment_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from k2.embedded.stack import Stack
    from k2.settings import Settings

# Not asked for here, or not there: a JVM, Airflow, and the ports of an embedded stack.
NOT_CHECKED = {
    "ports", "lake by spark", "airflow", "spark connection", "offload pool", "dags",
    "airflow services",
}  # fmt: skip
# How full the disk is, is the machine's own business.
DISK = "lake"


def doctor(settings: Settings, **variables: str) -> dict[str, Result]:
    """The results by name, for somebody whose environment names the services."""
    shell = {"PATH": os.environ["PATH"], **environment_of(settings), **variables}
    return {result.name: result for result in examine(look_around(shell), registry(), spark=False)}


def wrong(results: dict[str, Result]) -> dict[str, tuple[Outcome, str]]:
    return {
        name: (result.outcome, result.found)
        for name, result in results.items()
        if result.outcome not in (Outcome.OK, Outcome.NOT_CHECKED) and name != DISK
    }


def test_on_a_stack_that_was_initialised_all_is_well(stack: Stack) -> None:
    results = doctor(stack.settings)
    assert wrong(results) == {}
    assert {n for n, r in results.items() if r.outcome is Outcome.NOT_CHECKED} == NOT_CHECKED
    assert all(result.found and not result.fix for n, result in results.items() if n != DISK)


def test_it_can_be_asked_again_and_again_and_changes_nothing(stack: Stack) -> None:
    def contents() -> list[Any]:
        with (
            connect(stack.settings.clickhouse) as client,
            watermark.connect(stack.settings.postgres) as connection,
        ):
            tables = "select name, uuid, total_rows, comment from system.tables where database='k2'"
            return [
                sorted(client.query(tables).result_rows, key=str),
                connection.execute("select * from offload_watermarks").fetchall(),
                sorted(path for path in (stack.directory / "lake").rglob("*")),
            ]

    before = contents()
    doctor(stack.settings)
    doctor(stack.settings)
    assert contents() == before


@contextmanager
def expired_lease(stack: Stack) -> Iterator[None]:
    with watermark.connect(stack.settings.postgres) as connection:
        connection.execute(
            "insert into offload_watermarks (table_name, holder, claimed_at, lease_until) values"
            " ('ohlcv_1d', 'host process 7', now() - interval '1 hour',"
            " now() - interval '1 minute') on conflict (table_name) do update set"
            " holder = excluded.holder, claimed_at = excluded.claimed_at,"
            " lease_until = excluded.lease_until"
        )
        yield
        connection.execute("update offload_watermarks set holder = null, lease_until = null")


@contextmanager
def lost_view_of_bronze(stack: Stack) -> Iterator[None]:
    with connect(stack.settings.clickhouse) as client:
        client.command("drop view trades_kraken_checked_mv")
        yield
        create_bronze(client, registry(), queue="embedded")


@contextmanager
def older_definition(stack: Stack) -> Iterator[None]:
    with connect(stack.settings.clickhouse) as client:
        client.command("alter table bronze_trades_kraken_mv modify comment 'of last year'")
        yield
        create_bronze(client, registry(), queue="embedded")


@contextmanager
def renamed(stack: Stack, table: str) -> Iterator[Any]:
    with connect(stack.settings.clickhouse) as client:
        client.command(f"rename table {table} to {table}_elsewhere")
        yield client
        client.command(f"rename table {table}_elsewhere to {table}")


def lost_view_of_silver(stack: Stack) -> AbstractContextManager[Any]:
    return renamed(stack, "bronze_kraken_to_silver_mv")


@contextmanager
def silver_that_keeps_every_resend(stack: Stack) -> Iterator[None]:
    with renamed(stack, "silver_trades") as client:
        client.command(
            "create table silver_trades as silver_trades_elsewhere"
            " engine = MergeTree order by (exchange, canonical_symbol, timestamp, trade_id)"
        )
        yield
        client.command("drop table silver_trades sync")


@contextmanager
def lake_without_a_file(stack: Stack) -> Iterator[None]:
    table = load_table(open_catalog(stack.settings), stack.settings, "ohlcv_1h")
    path = Path(table.metadata_location.removeprefix("file:"))
    path.rename(path.with_suffix(".away"))
    yield
    path.with_suffix(".away").rename(path)


@contextmanager
def catalog_without_a_table(stack: Stack) -> Iterator[None]:
    catalog = open_catalog(stack.settings)
    location = load_table(catalog, stack.settings, "ohlcv_1h").metadata_location
    catalog.drop_table("cold.ohlcv_1h")
    yield
    catalog.register_table("cold.ohlcv_1h", location)


@pytest.mark.parametrize(
    ("broken", "name", "outcome", "found"),
    [
        (expired_lease, "leases", Outcome.WARNING, "ohlcv_1d: host process 7, lease ran out 60 s"),
        (lost_view_of_bronze, "tables", Outcome.FAILED, "missing: trades_kraken_checked_mv"),
        (older_definition, "tables", Outcome.WARNING, "has now: bronze_trades_kraken_mv"),
        (lost_view_of_silver, "silver", Outcome.FAILED, "not fill it: bronze_kraken_to_silver_mv"),
        (silver_that_keeps_every_resend, "silver", Outcome.FAILED, "its engine is MergeTree"),
        (lake_without_a_file, "iceberg tables", Outcome.FAILED, "the lake has not: ohlcv_1h"),
        (catalog_without_a_table, "iceberg tables", Outcome.FAILED, "catalog: ohlcv_1h"),
    ],
)
def test_what_is_broken_is_found_with_a_fix_and_is_gone_when_mended(
    stack: Stack,
    broken: Callable[[Stack], AbstractContextManager[Any]],
    name: str,
    outcome: Outcome,
    found: str,
) -> None:
    with broken(stack):
        results = doctor(stack.settings)
    assert list(wrong(results)) == [name]
    assert results[name].outcome is outcome
    assert found in results[name].found
    assert results[name].fix
    assert wrong(doctor(stack.settings)) == {}


def test_a_clickhouse_that_is_down_costs_only_what_needs_it(stack: Stack) -> None:
    settings = stack.settings
    results = doctor(replace(settings, clickhouse=replace(settings.clickhouse, port=1)))
    assert list(wrong(results)) == ["clickhouse"]
    for name in ("tables", "grants", "silver", "clickhouse clock"):
        assert results[name].found == "clickhouse does not answer"
    assert results["lake by clickhouse"].found == "ClickHouse does not answer"
    assert results["leases"].outcome is Outcome.OK


def test_a_wrong_password_of_postgresql_is_told_as_such(stack: Stack) -> None:
    settings = stack.settings
    results = doctor(replace(settings, postgres=replace(settings.postgres, password="wrong")))
    assert list(wrong(results)) == ["postgresql", "iceberg catalog"]
    assert "password authentication failed" in results["postgresql"].found
    assert "K2_POSTGRES_PASSWORD" in results["postgresql"].fix
    assert results["tables"].outcome is Outcome.OK


def test_a_login_of_dbts_own_is_looked_at(stack: Stack) -> None:
    clickhouse = stack.settings.clickhouse
    login = {"K2_DBT_USER": clickhouse.user, "K2_DBT_PASSWORD": clickhouse.password}
    assert doctor(stack.settings, **login)["dbt's grants"].outcome is Outcome.OK
    results = doctor(stack.settings, **login | {"K2_DBT_PASSWORD": "wrong"})
    assert list(wrong(results)) == ["clickhouse of dbt"]


def test_a_clock_that_is_off_is_told_of_a_real_server(stack: Stack) -> None:
    conninfo = stack.settings.postgres.conninfo("k2")
    with postgres.session(conninfo, "PostgreSQL") as connection:
        for ahead, outcome in ((0, Outcome.OK), (60, Outcome.FAILED), (-60, Outcome.FAILED)):
            result = clocks.skew(
                lambda: postgres.time_of(connection), lambda ahead=ahead: time.time() - ahead
            )
            assert result.outcome is outcome, result


def k2(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user of the embedded stack does."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("K2_")}
    return subprocess.run(
        [sys.executable, "-m", "k2.cli", *arguments],
        env={**inherited, "K2_STATE": str(directory)},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_the_command_ends_with_1_where_a_check_has_failed(stack: Stack) -> None:
    # This stack is without Airflow.
    done = k2(stack.directory, "doctor")
    assert (done.returncode, done.stderr) == (1, "")
    assert "\x1b" not in done.stdout
    failures = [line for line in done.stdout.splitlines() if line.startswith("failed")]
    assert [line.split()[1] for line in failures] == ["airflow"]
    assert failures[0].endswith(
        "Airflow has not made its tables yet -> 'k2 up', or 'airflow db migrate'"
    )


def test_spark_reaches_the_lake_when_it_is_asked_for(stack: Stack) -> None:
    done = k2(stack.directory, "doctor", "--spark", "--json")
    results = {result["name"]: result for result in json.loads(done.stdout)}
    assert results["lake by spark"] == {
        "name": "lake by spark",
        "outcome": "ok",
        "found": "Spark opens 9 tables",
        "fix": "",
    }


def test_without_a_stack_what_needs_one_is_not_checked(tmp_path: Path) -> None:
    done = k2(tmp_path / "none", "doctor")
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("failed")] == []
    assert f"no stack is running on {tmp_path / 'none'}" in done.stdout
    assert done.returncode == 0
    assert not (tmp_path / "none").exists()

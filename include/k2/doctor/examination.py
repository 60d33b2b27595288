"""All checks, in the order in which they are told."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

from k2.clickhouse import connect
from k2.doctor import airflow, clickhouse, clocks, lake, machine, postgres
from k2.doctor.result import Group, not_checked, run_groups
from k2.offload.watermark import DATABASE
from k2.settings import ClickHouse
from k2.transform import DBT_PROJECT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from clickhouse_connect.driver.client import Client
    from psycopg import Connection

    from k2.doctor.result import Result
    from k2.doctor.surroundings import Surroundings
    from k2.registry import Registry


def examine(surroundings: Surroundings, registry: Registry, *, spark: bool) -> list[Result]:
    """Run every check; with `spark` also the one that starts a JVM."""
    return run_groups(
        [
            _machine(surroundings),
            _clickhouse(surroundings, registry),
            *_dbt(surroundings),
            _postgres(surroundings),
            _lake(surroundings, registry),
            _spark(surroundings, asked=spark),
            _airflow(surroundings.environment),
        ]
    )


def _machine(surroundings: Surroundings) -> Group:
    environment = surroundings.environment
    folders = machine.import_folders(environment)
    return Group(
        {
            "pyspark": lambda _: machine.pyspark(sys.path),
            "java": lambda _: machine.java_of_spark(surroundings.shell),
            "jars": lambda _: machine.jars(machine.jars_directory(environment)),
            "ports": lambda _: machine.ports(surroundings),
            "file names": lambda _: machine.file_names(folders, DBT_PROJECT, sys.path),
            "full refresh": lambda _: clickhouse.full_refresh(DBT_PROJECT),
            "lake": lambda _: lake.folder(surroundings.settings),
        }
    )


def _clickhouse(surroundings: Surroundings, registry: Registry) -> Group:
    def look(client: Client) -> Result:
        return clickhouse.grants(client, surroundings.settings.clickhouse.user)

    return Group(
        {
            "tables": functools.partial(clickhouse.tables, registry=registry),
            "grants": look,
            "silver": functools.partial(clickhouse.silver, registry=registry),
            "clickhouse clock": lambda client: clocks.skew(
                lambda: float(client.command("select toUnixTimestamp64Micro(now64(6))")) / 1e6
            ),
        },
        name="clickhouse",
        open=lambda: _connect(surroundings.settings.clickhouse),
        describe=lambda client: _describe(client, surroundings.settings.clickhouse),
        fix=f"{clickhouse.START}; 'k2 init' makes its database",
    )


def _dbt(surroundings: Surroundings) -> list[Group]:
    """dbt's own login, where it has one."""
    environment = surroundings.environment
    user, password = environment.get("K2_DBT_USER"), environment.get("K2_DBT_PASSWORD", "")
    if not user or surroundings.known is None:
        return []
    server = surroundings.known.clickhouse
    login = ClickHouse(server.host, server.port, user, password, server.database)
    return [
        Group(
            {"dbt's grants": functools.partial(clickhouse.grants, user=user)},
            name="clickhouse of dbt",
            open=lambda: _connect(login),
            describe=lambda client: _describe(client, login),
            fix="its login is K2_DBT_USER and K2_DBT_PASSWORD",
        )
    ]


def _connect(login: ClickHouse) -> AbstractContextManager[Client]:
    return connect(login, timeout=clickhouse.SECONDS)


def _describe(client: Client, login: ClickHouse) -> str:
    return f"{client.server_version} at {login.host}:{login.port}, {login.user}"


def _postgres(surroundings: Surroundings) -> Group:
    return Group(
        {
            "watermarks": postgres.watermarks,
            "leases": postgres.leases,
            "postgresql clock": lambda connection: clocks.skew(
                lambda: postgres.time_of(connection)
            ),
        },
        name="postgresql",
        open=lambda: postgres.session(
            surroundings.settings.postgres.conninfo(DATABASE), "PostgreSQL"
        ),
        describe=postgres.describe,
        fix=postgres.START,
    )


def _lake(surroundings: Surroundings, registry: Registry) -> Group:
    return Group(
        {
            "iceberg tables": lambda connection: lake.catalog(
                connection, surroundings.settings, registry
            ),
            "lake by clickhouse": lambda connection: lake.from_clickhouse(
                connection, surroundings.settings
            ),
        },
        name="iceberg catalog",
        open=lambda: _open_catalog(surroundings),
        describe=lambda connection: lake.describe(connection, surroundings.settings),
        fix=f"k2 init; if PostgreSQL is down, {postgres.START}",
    )


def _spark(surroundings: Surroundings, *, asked: bool) -> Group:
    def look(_: object) -> Result:
        if not asked:
            return not_checked("that starts a JVM; 'k2 doctor --spark' does")
        with _open_catalog(surroundings) as connection:
            # It raises where there is no catalog: a JVM would make one.
            lake.metadata_locations(connection, surroundings.settings)
        return lake.from_spark(surroundings.environment)

    return Group({"lake by spark": look}, seconds=lake.SPARK_SECONDS + 20)


def _open_catalog(surroundings: Surroundings) -> AbstractContextManager[Connection[Any]]:
    return postgres.session(surroundings.settings.postgres.conninfo("lake"), "The Iceberg catalog")


def _airflow(environment: Mapping[str, str]) -> Group:
    return Group(
        {
            "spark connection": functools.partial(
                airflow.spark_connection, environment=environment
            ),
            "offload pool": airflow.pool,
            "dags": airflow.dags,
            "airflow services": lambda _: airflow.services(environment),
        },
        name="airflow",
        open=lambda: airflow.open_metadata(environment),
        describe=airflow.describe,
        fix="'k2 up', or 'airflow db migrate'",
    )

"""The ways to bring all rows of a table in ClickHouse into an empty Iceberg table."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

from k2.bench.offload import jdbc_job
from k2.clickhouse import quote_identifier
from k2.embedded.jars import JARS_DIRECTORY, Jar, fetch
from k2.embedded.spark import spark_environment
from k2.jobs import offload_command, submit_command
from k2.offload.schema import casts_sql, source_columns
from k2.offload.source import source_sql
from k2.registry import REGISTRY_DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Callable

    from clickhouse_connect.driver.client import Client

    from k2.embedded.stack import Stack
    from k2.registry import Table

UNLOAD: Final = "unload and commit"
SCAN: Final = "Spark, parallel Arrow source"
JDBC: Final = "Spark over JDBC"
PYICEBERG: Final = "PyIceberg append"
FLOOR: Final = "Parquet files alone"
NOTHING_NEW: Final = "offload, nothing new"
PLAIN_START: Final = "plain spark-submit, nothing moved"
CORES: Final = 2
JDBC_JAR: Final = Jar(
    "com.clickhouse",
    "clickhouse-jdbc",
    "0.9.4",
    "db2e43b69531b0157b33217a85459771908838c0991e212e24e32b0ecbb6ee98",  # pragma: allowlist secret
    classifier="all",
)
# The steps of a batch that an offload logs with their seconds.
_PLAN: Final = re.compile(r"event=planned .* seconds=([\d.]+)")
_TRANSFER: Final = re.compile(r"event=(?:unloaded|verified|committed) .* seconds=([\d.]+)")


@dataclass(frozen=True)
class Way:
    """A command, and how to read from its output the seconds in which rows moved."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    transfer_seconds: Callable[[str], float]


def unload(stack: Stack, table: Table) -> Way:
    """K2's own: ClickHouse writes the files, the driver verifies and commits them."""
    command = offload_command(table.name, cores=CORES)
    return Way(UNLOAD, tuple(command), stack.environment, _logged_seconds)


def scan(stack: Stack, table: Table) -> Way:
    """K2's other transfer: Spark reads ClickHouse in parallel as Arrow."""
    registry = stack.directory / "scan-registry"
    registry.mkdir(exist_ok=True)
    tables = yaml.safe_load((REGISTRY_DIRECTORY / "tables.yaml").read_text())
    tables["defaults"]["transfer"] = "scan"
    (registry / "tables.yaml").write_text(yaml.safe_dump(tables))
    shutil.copy(REGISTRY_DIRECTORY / "exchanges.yaml", registry)
    environment = {**stack.environment, "K2_REGISTRY": str(registry)}
    command = offload_command(table.name, cores=CORES)
    return Way(SCAN, tuple(command), environment, _logged_seconds)


def jdbc(stack: Stack, table: Table, client: Client) -> Way:
    """What the replaced platform did: Spark over JDBC in one partition, and an Iceberg append."""
    command = _jdbc_command(table, all_rows_query(client, table))
    return Way(JDBC, command, plain_environment(stack), _reported_seconds)


def pyiceberg(stack: Stack, table: Table, client: Client) -> Way:
    """Arrow into PyIceberg's append."""
    job = (sys.executable, "-m", "k2.bench.offload.pyiceberg_job", table.name)
    command = (*job, all_rows_query(client, table))
    return Way(PYICEBERG, command, stack.environment, _reported_seconds)


def plain_start(stack: Stack, table: Table) -> Way:
    """A plain spark-submit that opens a session and the table, and moves nothing."""
    return Way(PLAIN_START, _jdbc_command(table, ""), plain_environment(stack), _nothing)


def all_rows_query(client: Client, table: Table) -> str:
    """All rows, with the values that the Iceberg table takes."""
    columns = source_columns(client, table)
    names = ", ".join(quote_identifier(column.name) for column in columns)
    return f"select {casts_sql(columns)} from (select {names} from {source_sql(client, table)})"


def _jdbc_command(table: Table, query: str) -> tuple[str, ...]:
    return tuple(submit_command(Path(jdbc_job.__file__), table.name, query, cores=CORES))


def plain_environment(stack: Stack) -> dict[str, str]:
    """Spark as it comes, with the jars and the memory that the replaced platform gave it."""
    jars, configuration = stack.directory / "jdbc-jars", stack.directory / "plain-spark"
    fetch(jars, stack.java, [JDBC_JAR])
    configuration.mkdir(exist_ok=True)
    (configuration / "spark-defaults.conf").write_text(
        f"spark.driver.extraClassPath {JARS_DIRECTORY}/*:{jars}/*\n"
        "spark.driver.memory 4g\nspark.ui.enabled false\n"
    )
    shutil.copy(stack.directory / "spark" / "log4j2.properties", configuration)
    return {**stack.environment, **spark_environment(configuration, stack.java)}


def plan_seconds(output: str) -> float:
    """What a job spent on planning its batches; only an offload has a plan."""
    return sum(map(float, _PLAN.findall(output)))


def _logged_seconds(output: str) -> float:
    """Of an offload: the sum of unload, verify and commit over all batches."""
    return sum(map(float, _TRANSFER.findall(output)))


def _reported_seconds(output: str) -> float:
    """Of a job that prints them as JSON."""
    (line,) = (line for line in output.splitlines() if line.startswith('{"seconds"'))
    return float(json.loads(line)["seconds"])


def _nothing(_output: str) -> float:
    return 0.0

"""A run of the medallion with many new trades, K2's own or the plain one, on a fresh stack each.

Everything is real: simulated trades as raw messages, Airflow's scheduler, dbt, Spark, Iceberg.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from k2 import terminal
from k2.bench import lake
from k2.bench.dag import plain
from k2.bench.dag.spans import DagRun, Task
from k2.bench.offload import ways
from k2.bench.offload.data import simulate_trades
from k2.clickhouse import connect
from k2.demo import DAG, run_dag
from k2.embedded.stack import start_airflow
from k2.initialise import initialise
from k2.registry import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from k2.airflow_client import Airflow
    from k2.embedded.stack import Stack

PLAIN_DAG: Final = "medallion_jdbc"


@dataclass(frozen=True)
class Way:
    """A DAG that brings all tables to Iceberg, and the variables of its Airflow."""

    name: str
    dag: str
    variables: Callable[[Stack], dict[str, str]]


def fill(stack: Stack, trades: Mapping[str, int], say: Callable[[str], None]) -> None:
    """Feed so many simulated trades of each exchange into Bronze, and so into Silver."""
    progress = terminal.every(
        5.0, lambda name, count, seconds: say(f"  {name}: {count:,} ({seconds:.0f} s)")
    )
    with connect(stack.settings.clickhouse) as client:
        for exchange, count in trades.items():
            report = functools.partial(progress, exchange)
            simulate_trades(client, stack.settings, count, report, exchange=exchange)


def prepare(stack: Stack, say: Callable[[str], None]) -> None:
    """Create all tables of the registry, empty."""
    initialise(stack.settings, registry(), queue="embedded", state=stack.directory / "dbt", say=say)


def measure_run(
    stack: Stack,
    way: Way,
    trades: Mapping[str, int],
    say: Callable[[str], None],
    *,
    warm_up: bool = True,
) -> DagRun:
    """Run a way's DAG with `trades` new, by exchange.

    `warm_up`: after a run with nothing new, as on a platform that has been running.

    Args:
        stack: running engines that were prepared, without trades and without Airflow.

    Raises:
        RunFailedError: the run failed.
        WrongRowsError: afterwards, Iceberg does not hold the rows of every table.
    """
    start_airflow(stack, say, scheduled=False, dags=[way.dag], variables=way.variables(stack))
    if warm_up:
        say("a run with nothing new ...")
        run_dag(stack, _silent, way.dag)
    fill(stack, trades, say)
    run = run_dag(stack, say, way.dag)
    rows = lake.require_all_rows(stack.settings, [table.name for table in registry().tables])
    return read_run(stack.airflow(), way, run, rows)


def read_run(airflow: Airflow, way: Way, run: str, rows: int) -> DagRun:
    """A run that has ended, as Airflow recorded it; `rows` are what it left in Iceberg."""
    started, ended = airflow.run_times(way.dag, run)
    tasks = tuple(
        Task(
            task.task,
            task.label,
            round((task.started - started).total_seconds(), 3),
            round((task.ended - started).total_seconds(), 3),
        )
        for task in airflow.tasks(way.dag, run)
        if task.started and task.ended
    )
    return DagRun(way.name, rows, round((ended - started).total_seconds(), 3), tasks)


def _plain_variables(stack: Stack) -> dict[str, str]:
    """Airflow reads the plain DAG alone, and its jobs run in Spark as it comes."""
    queries = stack.directory / "queries.json"
    with connect(stack.settings.clickhouse) as client:
        of_tables = {table.name: ways.all_rows_query(client, table) for table in registry().tables}
    queries.write_text(json.dumps(of_tables))
    return {
        **ways.plain_environment(stack),
        "AIRFLOW__CORE__DAGS_FOLDER": str(Path(plain.__file__).parent),
        "K2_BENCH_QUERIES": str(queries),
    }


def _silent(_line: str) -> None:
    pass


K2: Final = Way("K2", DAG, lambda _stack: {})
PLAIN: Final = Way("plain spark-submit and JDBC", PLAIN_DAG, _plain_variables)
WAYS: Final = (PLAIN, K2)

"""The main job, from nothing to an audited lake: what `k2 demo` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from k2.airflow_client import follow
from k2.embedded.stack import Stack, start_airflow
from k2.errors import K2Error
from k2.initialise import initialise
from k2.offload import watermark
from k2.offload.audit import TableAudit, audit_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from k2.registry import Registry
    from k2.settings import Settings

DAG = "medallion"


class RunFailedError(K2Error):
    """The DAG run ended in failure."""


@dataclass(frozen=True)
class TableResult:
    """One table at the end: rows on both sides, whether equal, and how fast its offload was.

    Seconds and rate are those of all its batches, from plan to commit.
    """

    table: str
    clickhouse_rows: int
    iceberg_rows: int
    equal: bool
    seconds: float
    rows_per_second: int


def prepare(
    stack: Stack, registry: Registry, say: Callable[[str], None], *, scheduled: bool
) -> None:
    """Create all tables, and start Airflow, with the DAG's schedule or without."""
    initialise(stack.settings, registry, queue="embedded", state=stack.directory / "dbt", say=say)
    start_airflow(stack, say, scheduled=scheduled)


def run_dag(stack: Stack, say: Callable[[str], None], dag: str = DAG) -> str:
    """Trigger the DAG through the scheduler and show each task as it changes; the run's id.

    Raises:
        RunFailedError: the run failed; the message says where its logs are.
    """
    airflow = stack.airflow()
    airflow.unpause(dag)
    run = airflow.trigger(dag)
    say(f"run {run}: {stack.airflow_address}/dags/{dag}/runs/{run}")
    last = None
    for last in follow(airflow, dag, run):
        if last.task:
            label = f"{last.task} {last.label}".rstrip()
            seconds = "" if last.seconds is None else f"{last.seconds:6.1f} s"
            say(f"  {last.state:<10} {label:<40} {seconds}".rstrip())
    if last is None or last.state != "success":
        raise RunFailedError(
            f"the run of {dag} failed; its logs are in {stack.directory / 'airflow' / 'logs'}"
        )
    return run


def results(settings: Settings, registry: Registry) -> list[TableResult]:
    """Audit every table whole, ClickHouse against Iceberg."""
    audits = [audit_table(settings, table) for table in registry.tables]
    with watermark.connect(settings.postgres) as postgres:
        spent = watermark.time_spent(postgres)
    return [_result(audit, *spent.get(audit.table, (0, 0.0))) for audit in audits]


def _result(audit: TableAudit, rows: int, seconds: float) -> TableResult:
    return TableResult(
        table=audit.table,
        clickhouse_rows=audit.clickhouse_rows + audit.waiting_rows,
        iceberg_rows=audit.iceberg_rows,
        equal=audit.equal and not audit.waiting_rows,
        seconds=seconds,
        rows_per_second=round(rows / seconds) if seconds else 0,
    )

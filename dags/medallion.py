"""
### Medallion

Every 15 minutes: what arrived becomes Silver and Gold, and every table is offloaded to Iceberg.

Three groups, one after the other: **bronze**, **silver**, **gold**. In each, dbt builds and tests
the layer, then one Spark job for each table of the registry offloads what is new, then the
layer's new partitions are audited, ClickHouse against Iceberg. At the end **retention** drops from
ClickHouse what is past its days there, kept by Iceberg, and settled into candles.

What fails is tried again, five times in all, each time after a longer wait. A table whose offload
still fails stops alone: the other tables and layers go on, the run ends as failed, and retention
drops nothing. A failed `dbt` stops its layer and those after it; a failed `audit` those after it.

Every task can be cleared and rerun at any time: dbt settles only what changed, an offload goes on
from the token inside Iceberg, an audit only reads, and retention checks each partition anew.

| task | what to do when it fails |
|---|---|
| `dbt` | its log names the model, the test or the `quality error`; correct it and clear the task |
| `offload` | its log says in one line what stopped it; nothing was committed; clear the task |
| `audit` | its log names table and partition; see *Audit differs* in `docs/runbook.md` |
| `retention` | nothing was dropped that is not in Iceberg; correct what its log says and clear it |
"""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG, TaskGroup, TriggerRule, chain, task
from airflow.sdk.exceptions import AirflowFailException

from k2 import assets
from k2.notifications import run_deadline, task_failed
from k2.registry import Layer, registry

PROJECT = Path(__file__).resolve().parent.parent
# Empty: the DAG runs only when it is triggered.
SCHEDULE = os.environ.get("K2_SCHEDULE", "*/15 * * * *")


@task
def dbt(layer: str) -> None:
    """Build and test the models of a layer."""
    from k2.transform import build_layer, run_dbt_here

    run_dbt_here(build_layer(layer))


# After dbt went well and every offload has ended, well or not: a table that stops stops no other.
@task(trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS)
def audit(layer: str) -> None:
    """Compare the partitions that were written since their last audit."""
    from k2.offload.audit import AuditError, audit_table, require_equal
    from k2.settings import load_settings

    settings = load_settings(os.environ)
    tables = registry().layer(Layer(layer))
    audits = [audit_table(settings, table, only_new=True) for table in tables]
    try:
        require_equal(audits)
    except AuditError as error:
        # A difference does not pass by waiting: no retry.
        raise AirflowFailException(str(error)) from error


@task(map_index_template="{{ task.op_kwargs['table'] }}")
def retention(table: str) -> None:
    """Drop what is past its retention; what Iceberg does not keep stays, and the log says why."""
    from k2.offload.retention import apply_retention
    from k2.settings import load_settings

    today = dt.datetime.now(dt.UTC).date()
    apply_retention(load_settings(os.environ), registry().table(table), today=today)


with DAG(
    dag_id="medallion",
    description="Trades to Silver and Gold, and every table to Iceberg",
    doc_md=__doc__,
    schedule=SCHEDULE or None,
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    catchup=False,
    max_active_runs=1,
    deadline=run_deadline(os.environ),
    tags=["k2", "offload"],
    default_args={
        "owner": "k2",
        # After 5, 10, 20 and 40 seconds, each time up to as much again: long enough for a server
        # to be started anew, short enough to be done before the next run.
        "retries": 4,
        "retry_delay": dt.timedelta(seconds=5),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": dt.timedelta(minutes=1),
        "execution_timeout": dt.timedelta(hours=1),
        "on_failure_callback": task_failed,
    },
) as medallion:
    groups, offloads = [], []
    for layer in Layer:
        with TaskGroup(layer.value) as group:
            built = dbt(layer.value)
            offload = SparkSubmitOperator.partial(
                task_id="offload",
                application=str(PROJECT / "include" / "k2" / "jobs" / "offload.py"),
                conn_id="spark_default",
                pool="offload",
                map_index_template="{{ task.application_args[0] }}",
                outlets=[assets.LAKE],
                post_execute=assets.offloaded,
            ).expand(application_args=[[table.name] for table in registry().layer(layer)])
            audited = audit(layer.value)
            chain(built, offload, audited)
            chain(built, audited)
        groups.append(group)
        offloads.append(offload)
    # Last of all: nobody reads what is gone, neither Silver from Bronze nor a candle from Silver.
    # And only after every offload went well, so that a run with a failed one ends as failed.
    dropped = retention.expand(
        table=[table.name for table in registry().tables if table.retention_days is not None]
    )
    chain(*groups, dropped)
    chain(offloads, dropped)

"""
### Medallion

Every 15 minutes: what arrived becomes Silver and Gold, and every table is offloaded to Iceberg.

Three groups, one after the other: **bronze**, **silver**, **gold**. In each, dbt builds and tests
the layer, then one Spark job for each table of the registry offloads what is new, then the
layer's new partitions are audited, ClickHouse against Iceberg. At the end **retention** drops from
ClickHouse what is past its days there, kept by Iceberg, and settled into candles.

Every task can be cleared and rerun at any time: dbt settles only what changed, an offload goes on
from the token inside Iceberg, an audit only reads, and retention checks each partition anew.

| task | what to do when it fails |
|---|---|
| `dbt` | its log names the model or the test; correct it and clear the task |
| `offload` | its log says in one line what stopped it; nothing was committed; clear the task |
| `audit` | its log names table and partition; see *Audit differs* in `docs/runbook.md` |
| `retention` | nothing was dropped that is not in Iceberg; correct what its log says and clear it |
"""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, TaskGroup, chain, task

from k2.registry import Layer, registry

PROJECT = Path(__file__).resolve().parent.parent
# Empty: the DAG runs only when it is triggered.
SCHEDULE = os.environ.get("K2_SCHEDULE", "*/15 * * * *")
DBT = "dbt build --select {layer} --exclude-resource-type unit_test"


@task
def audit(layer: str) -> None:
    """Compare the partitions that were written since their last audit."""
    from k2.offload.audit import audit_table, require_equal
    from k2.settings import load_settings

    settings = load_settings(os.environ)
    tables = registry().layer(Layer(layer))
    require_equal([audit_table(settings, table, only_new=True) for table in tables])


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
    tags=["k2", "offload"],
    default_args={
        "owner": "k2",
        "retries": 2,
        "retry_delay": dt.timedelta(seconds=15),
        "retry_exponential_backoff": True,
        "max_retry_delay": dt.timedelta(minutes=5),
        "execution_timeout": dt.timedelta(hours=1),
    },
) as medallion:
    groups = []
    for layer in Layer:
        with TaskGroup(layer.value) as group:
            dbt = BashOperator(
                task_id="dbt",
                bash_command=DBT.format(layer=layer.value),
                cwd=str(PROJECT / "dbt_project"),
                append_env=True,
            )
            offload = SparkSubmitOperator.partial(
                task_id="offload",
                application=str(PROJECT / "include" / "k2" / "jobs" / "offload.py"),
                conn_id="spark_default",
                pool="offload",
                map_index_template="{{ task.application_args[0] }}",
            ).expand(application_args=[[table.name] for table in registry().layer(layer)])
            chain(dbt, offload, audit(layer.value))
        groups.append(group)
    # Last of all: nobody reads what is gone, neither Silver from Bronze nor a candle from Silver.
    chain(
        *groups,
        retention.expand(
            table=[table.name for table in registry().tables if table.retention_days is not None]
        ),
    )

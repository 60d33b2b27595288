"""
### Maintenance

Once a day: every Iceberg table is put in order, one Spark job for each table of the registry, one
after the other. In each job:

1. **retention**: partitions older than `lake_retention_days` are deleted, where it is set
2. **compaction**: partitions with many small files get few sorted ones of the target size
3. **expiry**: snapshots older than `snapshot_days` go, with the files that only they have
4. **manifests**: small ones are joined
5. **orphans**: files that no snapshot has are removed once they are `orphan_days` old

Offloads go on meanwhile. What a job has done is done: every task can be cleared and rerun at any
time, and looks for what there is left to do.

| task | what to do when it fails |
|---|---|
| `maintain` | its log says in one line what stopped it; no row was lost; clear the task |
"""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG

from k2.registry import registry

PROJECT = Path(__file__).resolve().parent.parent
# Empty: the DAG runs only when it is triggered.
SCHEDULE = os.environ.get("K2_MAINTENANCE_SCHEDULE", "30 1 * * *")

with DAG(
    dag_id="maintenance",
    description="Compaction, expiry and retention of the Iceberg tables",
    doc_md=__doc__,
    schedule=SCHEDULE or None,
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    catchup=False,
    max_active_runs=1,
    tags=["k2", "maintenance"],
    default_args={
        "owner": "k2",
        "retries": 2,
        "retry_delay": dt.timedelta(minutes=1),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": dt.timedelta(minutes=10),
        "execution_timeout": dt.timedelta(hours=6),
    },
) as maintenance:
    SparkSubmitOperator.partial(
        task_id="maintain",
        application=str(PROJECT / "include" / "k2" / "jobs" / "maintain.py"),
        conn_id="spark_default",
        # Of the places that Spark drivers have in all, offloads keep every one but one.
        pool="offload",
        max_active_tis_per_dag=1,
        map_index_template="{{ task.application_args[0] }}",
    ).expand(application_args=[[table.name] for table in registry().tables])

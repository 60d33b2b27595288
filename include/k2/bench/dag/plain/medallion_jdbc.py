"""The medallion without K2: the same dbt commands, and plain Spark jobs over JDBC.

It has no audit and no retention: the platform that it stands for had neither.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from pathlib import Path

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, TaskGroup, chain

from k2 import bench
from k2.registry import Layer, registry
from k2.transform import DBT_PROJECT, build_layer

JOB = str(Path(bench.__file__).parent / "offload" / "jdbc_job.py")
# By table, the query of all its rows.
QUERIES = json.loads(Path(os.environ["K2_BENCH_QUERIES"]).read_text())

with DAG(
    dag_id="medallion_jdbc",
    description=__doc__,
    schedule=None,
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    catchup=False,
    max_active_runs=1,
) as medallion_jdbc:
    groups = []
    for layer in Layer:
        with TaskGroup(layer.value) as group:
            dbt = BashOperator(
                task_id="dbt",
                bash_command=f"dbt {' '.join(build_layer(layer.value))}",
                cwd=str(DBT_PROJECT),
                append_env=True,
            )
            offload = SparkSubmitOperator.partial(
                task_id="offload",
                application=JOB,
                conn_id="spark_default",
                pool="offload",
                map_index_template="{{ task.application_args[0] }}",
            ).expand(
                application_args=[
                    [table.name, QUERIES[table.name]] for table in registry().layer(layer)
                ]
            )
            chain(dbt, offload)
        groups.append(group)
    chain(*groups)

"""Airflow on this machine: its environment, its database and its three services."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from k2.embedded.spark import spark_environment
from k2.embedded.state import HOST, PROJECT, StackState
from k2.errors import StackError
from k2.settings import environment_of

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVICES = {
    "api-server": ["api-server", "--host", HOST, "--workers", "1"],
    # Its log server would listen on every address; all services read the same folder of logs.
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
}
USER = "admin"
# Of Airflow's own settings, those that say where its metrics and traces go are the user's.
_OF_THE_USER = ("AIRFLOW__METRICS__", "AIRFLOW__TRACES__")
# What the scheduler's task processes begin with, instead of importing it again for each task. None
# of K2's own: a change to it is in force with the next task.
PRELOADED = (
    "airflow.executors.local_executor",
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.dag_processing.dagbag",
    "airflow.providers.apache.spark.operators.spark_submit",
    "clickhouse_connect",
    "dbt.adapters.clickhouse",
    "dbt.cli.main",
    "psycopg",
    "pyarrow.parquet",
    "pyiceberg.catalog.sql",
    "pyiceberg.io.pyarrow",
    "pyiceberg.table",
)
# Two jobs share two cores; a third would only wait for memory.
OFFLOADS_AT_ONCE = max(2, (os.cpu_count() or 2) // 2)


def airflow_environment(
    state: StackState, directory: Path, java_home: Path, base: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The environment of every Airflow process, and so of every task."""
    home = directory / "airflow"
    settings = state.settings(directory)
    database = settings.postgres.conninfo("airflow").replace(
        "postgresql://", "postgresql+psycopg2://"
    )
    address = f"http://{HOST}:{state.airflow_port}"
    python = Path(sys.executable).parent
    return {
        **{
            name: value
            for name, value in base.items()
            if not name.startswith("AIRFLOW") or name.startswith(_OF_THE_USER)
        },
        **environment_of(settings),
        "PATH": os.pathsep.join((str(python), str(java_home / "bin"), base.get("PATH", ""))),
        "PYTHONPATH": str(PROJECT / "include"),
        "TZ": "UTC",
        **spark_environment(directory / "spark", java_home),
        "K2_STATE": str(directory),
        "DBT_TARGET_PATH": str(directory / "dbt" / "target"),
        "DBT_LOG_PATH": str(directory / "dbt" / "logs"),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps(
            {"conn_type": "spark", "host": "local[2]", "extra": {}}
        ),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__CORE__FERNET_KEY": state.airflow_fernet_key,
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__PORT": str(state.airflow_port),
        "AIRFLOW__API__SECRET_KEY": state.airflow_secret,
        "AIRFLOW__API_AUTH__JWT_SECRET": state.airflow_secret,
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "AIRFLOW__SCHEDULER__MP_START_METHOD": "forkserver",
        "AIRFLOW__SCHEDULER__MP_FORKSERVER_PRELOAD": ",".join(PRELOADED),
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }


def prepare(state: StackState, directory: Path, environment: Mapping[str, str]) -> None:
    """Bring Airflow's database up to date; write the login; create the offload pool.

    Raises:
        StackError: Airflow refuses; the message names its log.
    """
    home = directory / "airflow"
    home.mkdir(parents=True, exist_ok=True)
    passwords = home / "passwords.json"
    passwords.touch(mode=0o600)
    passwords.write_text(json.dumps({USER: state.airflow_password}))
    log = directory / "logs" / "airflow-prepare.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    for arguments in (
        ["db", "migrate"],
        ["pools", "set", "offload", str(OFFLOADS_AT_ONCE), "Spark drivers at the same time"],
    ):
        with log.open("ab") as output:
            done = subprocess.run(
                airflow_command(*arguments),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
            )
        if done.returncode != 0:
            raise StackError(f"'airflow {' '.join(arguments)}' failed; see {log}")


def airflow_command(*arguments: str) -> list[str]:
    """The command line of an Airflow program of this environment."""
    return [str(Path(sys.executable).parent / "airflow"), *arguments]

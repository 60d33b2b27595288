"""Airflow: the connection by which offloads find Spark, their pool, the DAGs, its services."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

import httpx
import psycopg
from psycopg.rows import tuple_row

from k2.doctor.postgres import SECONDS, session
from k2.doctor.result import Result, failed, not_checked, ok, warning
from k2.errors import SettingsError, StackError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from psycopg import Connection

# As the DAGs name them.
CONNECTION: Final = "spark_default"
POOL: Final = "offload"
DAGS: Final = ("medallion", "maintenance")
_VARIABLE: Final = f"AIRFLOW_CONN_{CONNECTION.upper()}"
_SET_IT: Final = (
    f"""set {_VARIABLE}='{{"conn_type": "spark", "host": "local[2]"}}' for the scheduler,"""
    " or host and port of a cluster"
)


def open_metadata(environment: Mapping[str, str]) -> AbstractContextManager[Connection[Any]]:
    """Airflow's own database.

    Raises:
        SettingsError: the environment does not name it.
        StackError: it does not answer, or Airflow has not made its tables.
    """
    address = environment.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "")
    scheme, _, rest = address.partition("://")
    if not scheme.startswith("postgresql"):
        raise SettingsError("no AIRFLOW__DATABASE__SQL_ALCHEMY_CONN names Airflow's database here")
    return session(f"postgresql://{rest}", "Airflow's database")


def describe(connection: Connection[Any]) -> str:
    """The revision that Airflow has brought its database to."""
    try:
        row = connection.execute("select version_num from alembic_version").fetchone()
    except psycopg.errors.UndefinedTable:
        raise StackError("Airflow has not made its tables yet") from None
    return f"database at revision {row[0]}" if row else "database without a revision"


def spark_connection(connection: Connection[Any], environment: Mapping[str, str]) -> Result:
    """What SparkSubmitOperator gives to spark-submit as its master; without a connection, yarn."""
    text = environment.get(_VARIABLE, "")
    source = _VARIABLE if text else "the database"
    try:
        found = _of_variable(text) if text else _of_database(connection)
    except ValueError:
        return failed(f"{_VARIABLE} is neither JSON nor a URI", _SET_IT)
    if found is None:
        return failed(f"no connection {CONNECTION}: every offload would be sent to yarn", _SET_IT)
    master = spark_master(*found)
    if not master.startswith(("local", "spark://", "k8s://", "yarn")) or master.endswith("://"):
        return failed(f"{CONNECTION} of {source} makes '{master}' of Spark's master", _SET_IT)
    return ok(f"{master}, of {source}")


def spark_master(kind: str, host: str, port: int | None) -> str:
    """The master that the Spark provider makes of a connection.

    https://airflow.apache.org/docs/apache-airflow-providers-apache-spark/stable/connections/spark-submit.html
    """
    whole = kind == "spark" and host and ("://" in host or port is None)
    return (host if whole else f"{kind}://{host}") + (f":{port}" if port else "")


def _of_variable(text: str) -> tuple[str, str, int | None]:
    if text.lstrip().startswith("{"):
        fields = json.loads(text)
        port = fields.get("port")
        return fields.get("conn_type") or "", fields.get("host") or "", int(port) if port else None
    parts = urlsplit(text)
    if not parts.scheme:
        raise ValueError(text)
    return parts.scheme.replace("-", "_"), unquote(parts.hostname or ""), parts.port


def _of_database(connection: Connection[Any]) -> tuple[str, str, int | None] | None:
    row = (
        connection.cursor(row_factory=tuple_row)
        .execute(
            "select coalesce(conn_type, ''), coalesce(host, ''), port"
            " from connection where conn_id = %s",
            (CONNECTION,),
        )
        .fetchone()
    )
    return row and (row[0], row[1], row[2])


def pool(connection: Connection[Any]) -> Result:
    """The pool of the offloads: a task of a pool that is not there is never started."""
    row = connection.execute("select slots from slot_pool where pool = %s", (POOL,)).fetchone()
    fix = f'airflow pools set {POOL} 2 "Spark drivers at the same time"'
    if row is None:
        return failed(f"no pool '{POOL}': no offload would ever start", fix)
    if row[0] == 0:
        return failed(f"the pool '{POOL}' has no slots: no offload would ever start", fix)
    return ok(f"'{POOL}', {row[0]} slots")


def dags(connection: Connection[Any]) -> Result:
    """The DAGs: read without an error, and not paused."""
    errors = connection.execute("select filename from import_error order by filename").fetchall()
    if errors:
        return failed(
            f"{errors[0][0]} cannot be imported", "'airflow dags list-import-errors' says why"
        )
    known = dict(connection.execute("select dag_id, is_paused from dag").fetchall())
    missing = [name for name in DAGS if name not in known]
    if missing:
        return warning(
            f"Airflow does not know {' and '.join(missing)}",
            "start its dag-processor; AIRFLOW__CORE__DAGS_FOLDER must be the folder dags",
        )
    paused = [name for name in DAGS if known[name]]
    if paused:
        return warning(
            f"{' and '.join(paused)} paused",
            f"'airflow dags unpause {paused[0]}' when it shall run",
        )
    return ok(" and ".join(DAGS))


def services(environment: Mapping[str, str]) -> Result:
    """The API server, and what it knows of the scheduler and the DAG processor."""
    address = environment.get("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "")
    if not address:
        return not_checked("no AIRFLOW__CORE__EXECUTION_API_SERVER_URL names Airflow's API here")
    base = address.removesuffix("/").removesuffix("/execution")
    try:
        health = httpx.get(f"{base}/api/v2/monitor/health", timeout=SECONDS).raise_for_status()
        states = {name: part["status"] for name, part in health.json().items()}
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        return failed(
            f"Airflow at {base} does not answer: {error}", "start it; 'k2 up', or its services"
        )
    ill = [name for name, state in states.items() if state not in ("healthy", None)]
    if ill:
        return failed(f"{' and '.join(ill)} not healthy", "start it again; its log says why")
    well = [name for name, state in states.items() if state == "healthy"]
    return ok(f"{base}: {', '.join(well)} healthy")

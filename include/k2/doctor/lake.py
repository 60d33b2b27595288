"""The lake: its folder and its catalog, as this machine, ClickHouse and Spark see them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
from clickhouse_connect.driver.exceptions import ClickHouseError

from k2.clickhouse import connect
from k2.doctor import clickhouse
from k2.doctor.result import Result, failed, not_checked, ok, warning
from k2.errors import StackError
from k2.jobs import LOOK, submit_command
from k2.offload.storage import local_path, storage_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg import Connection

    from k2.offload.storage import Storage
    from k2.registry import Registry
    from k2.settings import Settings

# A tenth, as the alert K2DiskFull.
LEAST_FREE: Final = 0.1
SPARK_SECONDS: Final = 120
_RESTORE: Final = "see 'Backup and restore' in docs/runbook.md"


def folder(settings: Settings) -> Result:
    """The warehouse is a folder in which this process can write, with room left."""
    path = Path(local_path(settings.lake.warehouse))
    if not settings.lake.warehouse.startswith("file:"):
        return not_checked(f"{settings.lake.warehouse} is no folder")
    # The first offload makes it.
    there = path if path.exists() else path.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return failed(
            f"{there} is not there, or this user cannot write in it",
            "mount the volume, or give it to the user that runs the tasks",
        )
    usage = shutil.disk_usage(there)
    free = usage.free / usage.total
    found = f"{path}, {usage.free / 1e9:,.1f} GB free ({free:.0%})"
    if free < LEAST_FREE:
        return warning(found, "see K2DiskFull in docs/runbook.md")
    return ok(found)


def metadata_locations(connection: Connection[Any], settings: Settings) -> dict[str, str]:
    """The current metadata file of each Iceberg table, by the table's name.

    Raises:
        StackError: the catalog has no tables yet.
    """
    try:
        rows = connection.execute(
            "select table_name, metadata_location from iceberg_tables"
            " where catalog_name = %s and table_namespace = %s",
            (settings.lake.catalog, settings.lake.namespace),
        ).fetchall()
    except psycopg.errors.UndefinedTable:
        raise StackError("there is no Iceberg catalog in the database lake") from None
    return dict(rows)


def describe(connection: Connection[Any], settings: Settings) -> str:
    """How many tables the catalog has.

    Raises:
        StackError: there is no catalog.
    """
    return f"{len(metadata_locations(connection, settings))} tables in {settings.lake.namespace}"


def catalog(connection: Connection[Any], settings: Settings, registry: Registry) -> Result:
    """Every table of the registry is in the catalog, and its metadata file in the lake."""
    locations = metadata_locations(connection, settings)
    missing = [table.name for table in registry.tables if table.name not in locations]
    if missing:
        return failed(f"not in the Iceberg catalog: {', '.join(missing)}", "k2 init")
    lost = [
        name
        for name, location in locations.items()
        if location.startswith("file:") and not Path(local_path(location)).exists()
    ]
    if lost:
        return failed(
            f"the catalog names files that the lake has not: {', '.join(sorted(lost))}", _RESTORE
        )
    return ok(f"{len(registry.tables)} tables, their metadata is there")


def from_clickhouse(connection: Connection[Any], settings: Settings) -> Result:
    """ClickHouse reads the very file that drivers wrote: it sees the same disk, and may."""
    storage = storage_of(settings.lake)
    locations = sorted(metadata_locations(connection, settings).values())
    location = next((one for one in locations if _is_there(storage, one)), None)
    if location is None:
        return not_checked("there is no file in the lake yet")
    try:
        with connect(settings.clickhouse, timeout=clickhouse.SECONDS) as client:
            size = client.command(
                f"select length(data) from {storage.text_sql(location)}",
                settings=dict(storage.query_settings),
            )
    except StackError:
        return not_checked("ClickHouse does not answer")
    except ClickHouseError as error:
        user = settings.clickhouse.user
        if "ACCESS_DENIED" in str(error) and not clickhouse.unloads(user):
            return not_checked(f"{user} is not meant to unload")
        return failed(
            f"ClickHouse cannot read {location}: {' '.join(str(error).split())[:200]}",
            "mount the lake in ClickHouse's container under the same path, below its user_files"
            if settings.lake.store is None
            else "give the server the keys and the region: docs/security.md",
        )
    path = storage.folder(location)
    if path is not None and size != path.stat().st_size:
        return failed(
            f"ClickHouse sees another {path}", "both must have the lake mounted from one place"
        )
    return ok(f"ClickHouse reads {location.rpartition('/')[2]}")


def _is_there(storage: Storage, location: str) -> bool:
    if not storage.has(location):
        return False
    path = storage.folder(location)
    return path is None or path.exists()


def from_spark(environment: Mapping[str, str], *, seconds: float = SPARK_SECONDS) -> Result:
    """A JVM as an offload has it opens the catalog and every table."""
    try:
        done = subprocess.run(
            submit_command(LOOK, cores=1),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return failed(f"Spark did not end within {seconds:.0f} s", "see Java, jars above")
    except OSError as error:
        return failed(f"spark-submit does not start: {error}", "see pyspark above")
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    said = lines[-1] if lines else f"exit status {done.returncode}"
    if done.returncode != 0:
        return failed(f"Spark cannot read the lake: {said}", "see Java, jars, the catalog above")
    return ok(said)

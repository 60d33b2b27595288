"""The lake of a benchmark: a table of it emptied, and what is in it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from k2.clickhouse import connect
from k2.errors import K2Error
from k2.offload import watermark
from k2.offload.catalog import ensure_table, load_table, open_catalog
from k2.offload.schema import source_columns
from k2.offload.source import source_sql
from k2.offload.storage import local_path
from k2.registry import registry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clickhouse_connect.driver.client import Client

    from k2.registry import Table
    from k2.settings import Settings


class WrongRowsError(K2Error):
    """A way left other rows in Iceberg than ClickHouse has."""


def rows_and_bytes(settings: Settings, table: str) -> tuple[int, int]:
    """Rows of a table in Iceberg, and the bytes of its files."""
    snapshot = load_table(open_catalog(settings), settings, table).current_snapshot()
    summary = snapshot.summary if snapshot else None
    if summary is None:
        return 0, 0
    return int(summary["total-records"] or 0), int(summary["total-files-size"] or 0)


def require_all_rows(settings: Settings, tables: Iterable[str]) -> int:
    """The rows of some tables in Iceberg, once they are known to be those of ClickHouse.

    Raises:
        WrongRowsError: they are not.
    """
    total = 0
    with connect(settings.clickhouse) as client:
        for name in tables:
            source = source_sql(client, registry().table(name))
            ((rows,),) = client.query(f"select count() from {source}").result_rows
            there, _ = rows_and_bytes(settings, name)
            if there != rows:
                raise WrongRowsError(f"{name}: {there:,} rows in Iceberg, {rows:,} in ClickHouse")
            total += there
    return total


def empty(settings: Settings, client: Client, table: Table) -> None:
    """The Iceberg table as `k2 init` makes it: without rows, and without a watermark."""
    catalog = open_catalog(settings)
    name = (settings.lake.namespace, table.name)
    if catalog.table_exists(name):
        location = catalog.load_table(name).location()
        catalog.drop_table(name)
        shutil.rmtree(local_path(location), ignore_errors=True)
    ensure_table(catalog, settings, table, source_columns(client, table))
    with watermark.connect(settings.postgres) as connection:
        for own in ("offload_watermarks", "offload_batches"):
            connection.execute(f"delete from {own} where table_name = %s".encode(), (table.name,))

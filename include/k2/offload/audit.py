"""The audit: is what Iceberg holds what ClickHouse holds, partition by partition.

ClickHouse counts its side, PyIceberg and NumPy the other one, so that a mistake of one reader is
not repeated by the same reader on both sides.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from k2.clickhouse import connect
from k2.errors import OffloadError
from k2.offload import drops, watermark
from k2.offload.catalog import load_table, open_catalog
from k2.offload.checksum import add_checksums, checksum_sql
from k2.offload.checksum_arrow import checksum_arrow
from k2.offload.cursor import Token, beyond_sql, parse_token, up_to_sql
from k2.offload.kept import is_kept, kept_from, kept_sql
from k2.offload.lineage import SINCE, TOKEN
from k2.offload.partition import (
    partition_bounds_sql,
    partition_name,
    partition_range,
    partition_sql,
)
from k2.offload.plan import touched_partitions
from k2.offload.schema import Column, source_columns
from k2.offload.source import source_sql
from k2.offload.storage_errors import told_in_a_line

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping, Sequence

    from clickhouse_connect.driver.client import Client
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.table import Table as IcebergTable

    from k2.registry import PartitionRule, Table
    from k2.settings import Settings


class AuditError(OffloadError):
    """ClickHouse and Iceberg differ."""


@dataclass(frozen=True)
class Side:
    """Rows and checksum of one partition on one side."""

    rows: int = 0
    checksum: int = 0

    def __add__(self, other: Side) -> Side:
        return Side(self.rows + other.rows, add_checksums((self.checksum, other.checksum)))


@dataclass(frozen=True)
class PartitionAudit:
    """One partition, compared. `waiting`: ClickHouse has corrected it since its last offload.

    `dropped`: what retention has taken out of ClickHouse, and Iceberg must still have.
    """

    table: str
    partition: str
    clickhouse: Side
    iceberg: Side
    waiting: bool = False
    dropped: Side = Side()

    @property
    def equal(self) -> bool:
        return self.waiting or self.clickhouse + self.dropped == self.iceberg

    def describe(self) -> str:
        """Both sides, for people."""
        dropped = f" and {self.dropped.rows} dropped by retention" if self.dropped.rows else ""
        same_rows = self.clickhouse.rows + self.dropped.rows == self.iceberg.rows
        return (
            f"ClickHouse {self.clickhouse.rows} rows{dropped}, Iceberg {self.iceberg.rows} rows"
            + (", checksums differ" if same_rows else "")
        )


@dataclass(frozen=True)
class TableAudit:
    """One table: its partitions compared, and the rows of ClickHouse not offloaded yet."""

    table: str
    partitions: tuple[PartitionAudit, ...]
    waiting_rows: int

    @property
    def equal(self) -> bool:
        return all(partition.equal for partition in self.partitions)

    @property
    def clickhouse_rows(self) -> int:
        return sum(partition.clickhouse.rows for partition in self.partitions)

    @property
    def iceberg_rows(self) -> int:
        return sum(partition.iceberg.rows for partition in self.partitions)

    @property
    def dropped_rows(self) -> int:
        return sum(partition.dropped.rows for partition in self.partitions)

    def differences(self) -> tuple[PartitionAudit, ...]:
        """The partitions that differ."""
        return tuple(partition for partition in self.partitions if not partition.equal)


def audit_table(settings: Settings, table: Table, *, only_new: bool = False) -> TableAudit:
    """Compare a table with its source, and write the result down.

    Days that Iceberg does not keep any more are left out.

    `only_new` takes just the partitions that batches wrote since the table's last audit, so that
    the cost follows the new rows.
    """
    catalog = open_catalog(settings)
    with connect(settings.clickhouse) as client, watermark.connect(settings.postgres) as postgres:
        # Batches that are recorded from here on are left to the next audit.
        audited_at = watermark.current_time(postgres)
        partitions = watermark.unaudited_partitions(postgres, table.name) if only_new else None
        with drops.lock(postgres, table.name, shared=True), told_in_a_line(settings.lake):
            gone = [
                drop
                for drop in drops.read_drops(postgres, table.name)
                if drops.happened(client, drop)
            ]
            result = _compare(client, catalog, settings, table, partitions, drops.add_up(gone))
        watermark.record_audit(
            postgres,
            audited_at,
            table.name,
            [
                (one.partition, one.clickhouse.rows, one.iceberg.rows, one.equal)
                for one in result.partitions
            ],
            whole=partitions is None,
        )
    return result


def require_equal(audits: Sequence[TableAudit]) -> None:
    """Raise AuditError, naming table and partition, unless all are equal."""
    different = [difference for audit in audits for difference in audit.differences()]
    if different:
        named = "; ".join(f"{one.table} {one.partition}: {one.describe()}" for one in different)
        raise AuditError(f"{len(different)} partition(s) differ: {named}")


def _compare(
    client: Client,
    catalog: SqlCatalog,
    settings: Settings,
    table: Table,
    partitions: Sequence[str] | None,
    dropped: Mapping[str, tuple[int, int]],
) -> TableAudit:
    columns = source_columns(client, table)
    lake = load_table(catalog, settings, table.name)
    token = lake_token(lake, table)
    absent = absent_sql(client, table, columns, lake)
    since = kept_from(lake.properties)
    compared = "0" if token is None else up_to_sql(table.cursor, token)
    compared = f"{compared} and {kept_sql(table.partition, since)}"
    if partitions is not None:
        compared = f"{compared} and {partition_bounds_sql(table.partition, partitions)}"
    with ThreadPoolExecutor(1) as beside:
        # ClickHouse counts its side while this process counts the other one.
        counting = beside.submit(_clickhouse_sides, client, table, columns, absent, compared)
        held = {
            name: iceberg_side(lake, columns, _partition_filter(table.partition, name))
            for name in (
                lake_partitions(lake, table.partition) if partitions is None else partitions
            )
        }
        source = counting.result()
    waiting, waiting_rows = _waiting(client, table, token)
    names = source.keys() | dropped.keys() | held.keys() if partitions is None else held.keys()
    return TableAudit(
        table.name,
        tuple(
            PartitionAudit(
                table.name,
                name,
                source.get(name, Side()),
                held.get(name, Side()),
                waiting=table.commit == "overwrite" and name in waiting,
                dropped=Side(*dropped.get(name, ())),
            )
            for name in sorted(names)
            if is_kept(table.partition, name, since)
        ),
        waiting_rows,
    )


def _clickhouse_sides(
    client: Client,
    table: Table,
    columns: Sequence[Column],
    absent: Mapping[str, str],
    where: str,
) -> dict[str, Side]:
    found = client.query(
        f"select {partition_sql(table.partition)} as lake_partition, count(),"
        f" {checksum_sql(columns, of_source=True, absent=absent)}"
        f" from {source_sql(client, table)} where {where} group by lake_partition"
    ).result_rows
    return {name: Side(rows, checksum) for name, rows, checksum in found}


def absent_sql(
    client: Client, table: Table, columns: Sequence[Column], lake: IcebergTable
) -> dict[str, str]:
    """For each column that was added later, the predicate of the rows that are in Iceberg without.

    ClickHouse has a value for them: the column's default.
    """
    found = {}
    for column in columns:
        text = lake.properties.get(f"{SINCE}{column.name}")
        if text is None:
            continue
        since = parse_token(text, table.cursor)
        if table.commit == "append":
            found[column.name] = up_to_sql(table.cursor, since)
        else:
            replaced = touched_partitions(client, table, beyond_sql(table.cursor, since))
            found[column.name] = f"not {partition_bounds_sql(table.partition, replaced)}"
    return found


def _waiting(client: Client, table: Table, token: Token | None) -> tuple[set[str], int]:
    """The partitions with rows beyond the token, and the number of those rows."""
    rows = client.query(
        f"select {partition_sql(table.partition)} as lake_partition, count()"
        f" from {source_sql(client, table)} where {beyond_sql(table.cursor, token)}"
        " group by lake_partition"
    ).result_rows
    return {name for name, _ in rows}, sum(count for _, count in rows)


def lake_token(lake: IcebergTable, table: Table) -> Token | None:
    """How far a table is offloaded, as Iceberg says; None before its first offload."""
    text = lake.properties.get(TOKEN)
    return None if text is None else parse_token(text, table.cursor)


def lake_partitions(lake: IcebergTable, rule: PartitionRule) -> set[str]:
    """The partitions that have files in the current snapshot, named as K2 names them."""
    return {partition_name(rule, task.file.partition[0]) for task in lake.scan().plan_files()}


def _partition_filter(rule: PartitionRule, partition: str) -> str:
    return days_filter(rule.column, *partition_range(rule, partition))


def days_filter(column: str, first: dt.date, end: dt.date) -> str:
    """PyIceberg's filter of the rows whose time is in the days [first, end), in UTC."""
    start, stop = (f"{day}T00:00:00+00:00" for day in (first, end))
    return f"{column} >= '{start}' and {column} < '{stop}'"


def iceberg_side(lake: IcebergTable, columns: Sequence[Column], row_filter: str) -> Side:
    """Rows and checksum of what Iceberg has, as PyIceberg reads it."""
    scan = lake.scan(
        row_filter=row_filter,
        selected_fields=tuple(column.name for column in columns),
    )
    rows, checksums = 0, []
    for batch in scan.to_arrow_batch_reader():
        rows += batch.num_rows
        checksums.append(checksum_arrow(batch, columns))
    return Side(rows, add_checksums(checksums))

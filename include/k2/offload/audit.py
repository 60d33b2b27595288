"""The audit: is what Iceberg holds what ClickHouse holds, partition by partition.

ClickHouse counts its side, PyIceberg and NumPy the other one, so that a mistake of one reader is
not repeated by the same reader on both sides.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from k2.clickhouse import connect
from k2.errors import OffloadError
from k2.offload import watermark
from k2.offload.catalog import load_table, open_catalog
from k2.offload.checksum import add_checksums, checksum_arrow, checksum_sql
from k2.offload.cursor import Token, beyond_sql, parse_token, up_to_sql
from k2.offload.plan import (
    partition_bounds_sql,
    partition_range,
    partition_sql,
    source_sql,
)
from k2.offload.schema import Column, source_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from clickhouse_connect.driver.client import Client
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.table import Table as IcebergTable

    from k2.registry import PartitionRule, Table
    from k2.settings import Settings

TOKEN_PROPERTY = "k2.token"  # noqa: S105 - how far a table is offloaded, no secret


class AuditError(OffloadError):
    """ClickHouse and Iceberg differ."""


@dataclass(frozen=True)
class Side:
    """Rows and checksum of one partition on one side."""

    rows: int = 0
    checksum: int = 0


@dataclass(frozen=True)
class PartitionAudit:
    """One partition, compared. `waiting`: ClickHouse has corrected it since its last offload."""

    table: str
    partition: str
    clickhouse: Side
    iceberg: Side
    waiting: bool = False

    @property
    def equal(self) -> bool:
        return self.waiting or self.clickhouse == self.iceberg


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

    def differences(self) -> tuple[PartitionAudit, ...]:
        """The partitions that differ."""
        return tuple(partition for partition in self.partitions if not partition.equal)


def audit_table(settings: Settings, table: Table, *, only_new: bool = False) -> TableAudit:
    """Compare a table with its source, and write the result down.

    `only_new` takes just the partitions that batches wrote since the table's last audit, so that
    the cost follows the new rows.
    """
    catalog = open_catalog(settings)
    with connect(settings.clickhouse) as client, watermark.connect(settings.postgres) as postgres:
        # Batches that are recorded from here on are left to the next audit.
        audited_at = watermark.current_time(postgres)
        partitions = watermark.unaudited_partitions(postgres, table.name) if only_new else None
        result = _compare(client, catalog, settings, table, partitions)
        watermark.record_audit(
            postgres,
            audited_at,
            [
                (one.table, one.partition, one.clickhouse.rows, one.iceberg.rows, one.equal)
                for one in result.partitions
            ],
        )
    return result


def require_equal(audits: Sequence[TableAudit]) -> None:
    """Raise AuditError, naming table and partition, unless all are equal."""
    different = [difference for audit in audits for difference in audit.differences()]
    if different:
        named = "; ".join(
            f"{one.table} {one.partition}: ClickHouse {one.clickhouse.rows} rows, "
            f"Iceberg {one.iceberg.rows} rows"
            + ("" if one.clickhouse.rows != one.iceberg.rows else ", checksums differ")
            for one in different
        )
        raise AuditError(f"{len(different)} partition(s) differ: {named}")


def _compare(
    client: Client,
    catalog: SqlCatalog,
    settings: Settings,
    table: Table,
    partitions: Sequence[str] | None,
) -> TableAudit:
    columns = source_columns(client, table)
    lake = load_table(catalog, settings, table.name)
    text = lake.properties.get(TOKEN_PROPERTY)
    token = None if text is None else parse_token(text, table.cursor)
    source = dict(_clickhouse_sides(client, table, columns, token, partitions))
    waiting, waiting_rows = _waiting(client, table, token)
    names = (
        sorted(source.keys() | lake_partitions(lake, table.partition))
        if partitions is None
        else sorted(partitions)
    )
    return TableAudit(
        table.name,
        tuple(
            PartitionAudit(
                table.name,
                name,
                source.get(name, Side()),
                _iceberg_side(lake, table.partition, columns, name),
                waiting=table.commit == "overwrite" and name in waiting,
            )
            for name in names
        ),
        waiting_rows,
    )


def _clickhouse_sides(
    client: Client,
    table: Table,
    columns: Sequence[Column],
    token: Token | None,
    partitions: Sequence[str] | None,
) -> Iterator[tuple[str, Side]]:
    where = "0" if token is None else up_to_sql(table.cursor, token)
    if partitions is not None:
        where = f"{where} and {partition_bounds_sql(table.partition, partitions)}"
    for name, rows, checksum in client.query(
        f"select {partition_sql(table.partition)} as lake_partition, count(),"
        f" {checksum_sql(columns, of_source=True)}"
        f" from {source_sql(client, table)} where {where} group by lake_partition"
    ).result_rows:
        yield name, Side(rows, checksum)


def _waiting(client: Client, table: Table, token: Token | None) -> tuple[set[str], int]:
    """The partitions with rows beyond the token, and the number of those rows."""
    rows = client.query(
        f"select {partition_sql(table.partition)} as lake_partition, count()"
        f" from {source_sql(client, table)} where {beyond_sql(table.cursor, token)}"
        " group by lake_partition"
    ).result_rows
    return {name for name, _ in rows}, sum(count for _, count in rows)


def lake_partitions(lake: IcebergTable, rule: PartitionRule) -> set[str]:
    """The partitions that have files in the current snapshot, named as K2 names them."""
    epoch = dt.date(1970, 1, 1)
    names = set()
    for task in lake.scan().plan_files():
        value = task.file.partition[0]
        if rule.by == "day":
            day = value if isinstance(value, dt.date) else epoch + dt.timedelta(days=int(value))
            names.add(day.isoformat())
        elif rule.by == "month":
            names.add(f"{1970 + int(value) // 12:04d}-{int(value) % 12 + 1:02d}")
        else:
            names.add(f"{1970 + int(value):04d}")
    return names


def _iceberg_side(
    lake: IcebergTable, rule: PartitionRule, columns: Sequence[Column], partition: str
) -> Side:
    start, end = (f"{day}T00:00:00+00:00" for day in partition_range(rule, partition))
    scan = lake.scan(
        row_filter=f"{rule.column} >= '{start}' and {rule.column} < '{end}'",
        selected_fields=tuple(column.name for column in columns),
    )
    rows, checksums = 0, []
    for batch in scan.to_arrow_batch_reader():
        rows += batch.num_rows
        checksums.append(checksum_arrow(batch, columns))
    return Side(rows, add_checksums(checksums))

"""Retention: ClickHouse forgets whole partitions, by the day of ingestion, once Iceberg keeps them.

A partition past its retention is dropped when Iceberg's token covers every row of it and both
sides hold the same rows of that day. It is detached in one step and then looked at again: if a
part came after the check, everything is attached again. Only what was checked is deleted.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from k2.clickhouse import connect, quote_identifier, quote_string
from k2.errors import OffloadError
from k2.logs import get_logger
from k2.offload import drops, watermark
from k2.offload.audit import Side, absent_sql, days_filter, iceberg_side, lake_token
from k2.offload.catalog import load_table, open_catalog
from k2.offload.checksum import checksum_sql
from k2.offload.cursor import beyond_sql, make_token, newest_sql
from k2.offload.drops import Drop, Kept, Reason, State
from k2.offload.kept import is_kept, kept_filter, kept_from
from k2.offload.partition import partition_sql
from k2.offload.plan import PartitionPlan
from k2.offload.schema import source_columns
from k2.offload.source import INGESTION, versions_sql
from k2.offload.storage_errors import told_in_a_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clickhouse_connect.driver.client import Client
    from psycopg import Connection
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.table import Table as IcebergTable

    from k2.offload.schema import Column
    from k2.registry import Table
    from k2.settings import Settings


class RetentionError(OffloadError):
    """A table has a retention that cannot be applied."""


@dataclass(frozen=True)
class Retention:
    """What one table's retention did."""

    table: str
    dropped: tuple[Drop, ...] = ()
    kept: tuple[Kept, ...] = ()


@dataclass(frozen=True)
class _Step:
    """Everything that the retention of one table works with."""

    settings: Settings
    client: Client
    postgres: Connection[dict[str, Any]]
    catalog: SqlCatalog
    table: Table

    @property
    def source(self) -> str:
        """The table with every version of its rows, for a from clause."""
        return versions_sql(self.client, self.table)


def apply_retention(settings: Settings, table: Table, *, today: dt.date) -> Retention:
    """Drop what is past its retention and kept by Iceberg; say what stays and why.

    `today` is a day of UTC. A partition that differed is looked at again on the next day.

    Raises:
        RetentionError: the table is not partitioned by ingestion day.
    """
    if table.retention_days is None:
        return Retention(table.name)
    with (
        connect(settings.clickhouse) as client,
        watermark.connect(settings.postgres) as postgres,
        drops.lock(postgres, table.name),
        told_in_a_line(settings.lake),
    ):
        step = _Step(settings, client, postgres, open_catalog(settings), table)
        for drop in drops.read_drops(postgres, table.name):
            if drop.state is not State.DROPPED:
                _finish(step, drop)
        differed = drops.read_differing(postgres, table.name, checked_on=today)
        outcomes = [
            differed.get(day) or _retain(step, day) for day in past_days(client, table, today)
        ]
        result = Retention(
            table.name,
            tuple(one for one in outcomes if isinstance(one, Drop)),
            tuple(one for one in outcomes if isinstance(one, Kept)),
        )
        drops.record_kept(postgres, table.name, result.kept, today)
    _log(result)
    return result


def past_days(client: Client, table: Table, today: dt.date) -> tuple[dt.date, ...]:
    """The ingestion days of a table's partitions that are past its retention, oldest first.

    Raises:
        RetentionError: the table is not partitioned by ingestion day.
    """
    if table.retention_days is None:
        return ()
    of_table = "where database = {database:String} and {column} = {table:String}"
    parameters = {"database": client.database, "table": table.name}
    key = client.query(
        "select partition_key from system.tables " + of_table.replace("{column}", "name"),
        parameters=parameters,
    ).result_rows
    if not key:
        return ()
    # dbt-clickhouse puts the expression in brackets, which ClickHouse keeps.
    if key[0][0] not in (f"toDate({INGESTION})", f"(toDate({INGESTION}))"):
        raise RetentionError(
            f"{table.name}: has retention_days, which count from ingestion, and is partitioned by "
            f"'{key[0][0]}'; partition it by toDate({INGESTION}) or take retention_days away"
        )
    rows = client.query(
        "select distinct partition from system.parts "
        + of_table.replace("{column}", "table")
        + " and active order by partition",
        parameters=parameters,
    ).result_rows
    first_kept = today - dt.timedelta(days=table.retention_days)
    days = (dt.date.fromisoformat(partition) for (partition,) in rows)
    return tuple(day for day in days if day < first_kept)


def _retain(step: _Step, day: dt.date) -> Drop | Kept:
    """Drop one partition, or say why it stays."""
    checked = _check(step, day)
    return checked if isinstance(checked, Kept) else _drop(step, checked)


def _check(step: _Step, day: dt.date) -> Drop | Kept:
    """Compare both sides' rows of one ingestion day, as far as Iceberg keeps them."""
    table, client = step.table, step.client
    # Before the rows are read, so that a part which comes while they are counts as newer.
    newest_block = drops.active_parts(client, table.name, day).newest_block
    ((checked_at,),) = client.query("select toUnixTimestamp64Micro(now64(6))").result_rows
    lake = load_table(step.catalog, step.settings, table.name)
    columns = source_columns(client, table)
    of_day = f"{step.source} final where {_day_sql(step, day)}"
    plans, waiting = _rows_of(step, lake, columns, of_day)
    if waiting:
        return Kept(day, Reason.NOT_OFFLOADED, f"{waiting} rows wait for their offload")
    earlier = [one for one in drops.read_drops(step.postgres, table.name) if one.day == day]
    since = kept_from(lake.properties)
    clickhouse = Side()
    for plan in (*plans, *(plan for one in earlier for plan in one.partitions)):
        if is_kept(table.partition, plan.partition, since):
            clickhouse += Side(plan.rows, plan.checksum)
    of_day_there = days_filter(INGESTION, day, day + dt.timedelta(days=1))
    iceberg = iceberg_side(lake, columns, of_day_there + kept_filter(table.partition, since))
    if clickhouse != iceberg:
        both = f"ClickHouse {clickhouse.rows} rows, Iceberg {iceberg.rows} rows"
        return Kept(day, Reason.DIFFERS, both)
    newest = newest_sql(table.cursor, f"(select * from {of_day})", lower=None)
    return Drop(
        table=table.name,
        day=day,
        checked_at=dt.datetime.fromtimestamp(checked_at / 1_000_000, dt.UTC),
        partitions=plans,
        positions=make_token(table.cursor, client.query(newest).result_rows).positions,
        newest_block=newest_block,
    )


def _rows_of(
    step: _Step, lake: IcebergTable, columns: Sequence[Column], source: str
) -> tuple[tuple[PartitionPlan, ...], int]:
    """Rows and checksum of a part of the table by Iceberg partition, and the rows of it that are
    not offloaded.
    """
    token = lake_token(lake, step.table)
    absent = absent_sql(step.client, step.table, columns, lake)
    rows = step.client.query(
        f"select {partition_sql(step.table.partition)} as lake_partition, count(),"
        f" {checksum_sql(columns, of_source=True, absent=absent)},"
        f" countIf({beyond_sql(step.table.cursor, token)})"
        f" from {source} group by lake_partition order by lake_partition"
    ).result_rows
    plans = tuple(PartitionPlan(name, count, checksum) for name, count, checksum, _ in rows)
    return plans, sum(waiting for *_, waiting in rows)


def _drop(step: _Step, drop: Drop) -> Drop | Kept:
    """Drop a partition that was checked."""
    _remove_copies(step, drop.day)
    if drops.detached_parts(step.client, drop.table, drop.day).count:
        return Kept(drop.day, Reason.DETACHED, "attach or drop them by hand")
    drops.begin(step.postgres, drop)
    _alter(step, "detach partition", drop.day)
    if _finish(step, drop):
        return drop
    return Kept(drop.day, Reason.CHANGED, "checked again by the next run")


def _finish(step: _Step, drop: Drop) -> bool:
    """Bring a drop to its end, wherever it stands; whether its rows are gone from ClickHouse."""
    detached = drops.detached_parts(step.client, drop.table, drop.day)
    gone = drops.happened(step.client, drop)
    newer = detached.newest_block > drop.newest_block
    if newer or not gone:
        # A part that nobody checked was detached as well, or only some of the parts were.
        drops.set_state(step.postgres, drop, State.RETURNING)
        if detached.count:
            _alter(step, "attach partition", drop.day)
        drops.forget(step.postgres, drop)
        return False
    if detached.count:
        _alter(step, "drop detached partition", drop.day)
    drops.set_state(step.postgres, drop, State.DROPPED)
    return True


def _remove_copies(step: _Step, day: dt.date) -> None:
    """Remove later copies of the rows of a day from the partitions of later days.

    Nobody sees them as long as the first arrival is there. Without it they would turn up as new.
    """
    key = ", ".join(_sorting_key(step))
    of_day = _on(day)
    copied = (
        f"select {key} from {step.source} where {_day_sql(step, day, '>=')} group by {key}"
        f" having countIf({of_day}) > 0 and countIf(not {of_day}) > 0"
        " settings optimize_aggregation_in_order = 1"
    )
    ((copies,),) = step.client.query(f"select count() from ({copied})").result_rows
    if copies:
        step.client.command(
            f"delete from {step.source} where {_on(day, '>')} and ({key}) in ({copied})"
        )
        get_logger(table=step.table.name).info("copies removed", day=str(day), trades=copies)


def _day_sql(step: _Step, day: dt.date, operator: str = "=") -> str:
    """The predicate of the rows of an ingestion day, within the reach of their keys.

    `final` must see later days to know the winners, so it is the keys that prune.
    """
    key = _sorting_key(step)
    ends = ", ".join(f"[toString(min({name})), toString(max({name}))]" for name in key)
    (row,) = step.client.query(f"select {ends} from {step.source} where {_on(day)}").result_rows
    within = [
        f"{name} >= {quote_string(low)} and {name} <= {quote_string(high)}"
        for name, (low, high) in zip(key, row, strict=True)
    ]
    return " and ".join([_on(day, operator), *within])


def _on(day: dt.date, operator: str = "=") -> str:
    return f"toDate({INGESTION}) {operator} '{day}'"


def _sorting_key(step: _Step) -> list[str]:
    """The columns by which the table's rows are the same row."""
    ((key,),) = step.client.query(
        "select sorting_key from system.tables"
        " where database = {database:String} and name = {table:String}",
        parameters={"database": step.client.database, "table": step.table.name},
    ).result_rows
    return [quote_identifier(name) for name in key.split(", ")]


def _alter(step: _Step, action: str, day: dt.date) -> None:
    step.client.command(
        f"alter table {step.source} {action} '{day}'", settings={"allow_drop_detached": 1}
    )


def _log(result: Retention) -> None:
    log = get_logger(table=result.table)
    for drop in result.dropped:
        log.info("partition dropped", day=str(drop.day), rows=drop.rows)
    for kept in result.kept:
        log.warning(
            "partition kept", day=str(kept.day), reason=kept.reason.value, detail=kept.detail
        )

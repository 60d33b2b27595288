"""The partitions of an Iceberg table: days, months or years in UTC, by name and by time."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from k2.clickhouse import quote_identifier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2.registry import PartitionRule

# Of 2026-11-20, 2026-11 and 2026.
_NAME_LENGTHS = {"day": 10, "month": 7, "year": 4}


def partition_sql(rule: PartitionRule) -> str:
    """The expression of a row's Iceberg partition: 2026-11-20, 2026-11 or 2026, in UTC."""
    day = f"toString(toDate32({quote_identifier(rule.column)}, 'UTC'))"
    return day if rule.by == "day" else f"substring({day}, 1, {_NAME_LENGTHS[rule.by]})"


def partition_bounds_sql(rule: PartitionRule, partitions: Sequence[str]) -> str:
    """The predicate of the rows in some partitions, in a form that prunes by the time column."""
    ranges = []
    for partition in partitions:
        start, end = partition_range(rule, partition)
        ranges.append(f"({midnight_sql(rule, start, '>=')} and {midnight_sql(rule, end, '<')})")
    return f"({' or '.join(ranges) or '0'})"


def midnight_sql(rule: PartitionRule, day: dt.date, operator: str) -> str:
    """The predicate that compares a row's time with the beginning of a day, in UTC."""
    return f"{quote_identifier(rule.column)} {operator} toDateTime64('{day} 00:00:00', 3, 'UTC')"


def partition_of(rule: PartitionRule, day: dt.date) -> str:
    """The partition that a day belongs to."""
    return day.isoformat()[: _NAME_LENGTHS[rule.by]]


def partition_name(rule: PartitionRule, value: int | dt.date) -> str:
    """A partition, from what Iceberg has for it: a date, or days, months or years since 1970."""
    if isinstance(value, dt.date):
        return partition_of(rule, value)
    if rule.by == "day":
        return (dt.date(1970, 1, 1) + dt.timedelta(days=value)).isoformat()
    if rule.by == "month":
        return f"{1970 + value // 12:04d}-{value % 12 + 1:02d}"
    return f"{1970 + value:04d}"


def partition_range(rule: PartitionRule, partition: str) -> tuple[dt.date, dt.date]:
    """First day of a partition, and the first day after it."""
    start = dt.date.fromisoformat((partition + "-01-01")[:10])
    if rule.by == "day":
        return start, start + dt.timedelta(days=1)
    if rule.by == "year":
        return start, start.replace(year=start.year + 1)
    month = start.month % 12 + 1
    return start, start.replace(year=start.year + (month == 1), month=month)

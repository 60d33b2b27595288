"""Which days Iceberg keeps, of a table with `lake_retention_days`.

Rows are deleted by whole partitions. The commit that deletes them says from which day on rows are
kept, so what is compared with Iceberg never depends on a clock or on today's registry: the days
before are left out, and those that were deleted once stay left out.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from k2.offload.partition import midnight_sql, partition_of, partition_range

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k2.registry import PartitionRule, Table

# The first day whose rows are kept; a partition begins on it.
KEPT_FROM = "k2.kept_from"


def kept_from(properties: Mapping[str, str]) -> dt.date | None:
    """The first day that an Iceberg table keeps, by its properties; None when it keeps them all."""
    text = properties.get(KEPT_FROM)
    return None if text is None else dt.date.fromisoformat(text)


def first_kept(table: Table, today: dt.date) -> dt.date | None:
    """The first day that Iceberg should keep: its partition has rows of the last N days (UTC)."""
    if table.lake_retention_days is None:
        return None
    oldest = today - dt.timedelta(days=table.lake_retention_days)
    return partition_range(table.partition, partition_of(table.partition, oldest))[0]


def is_kept(rule: PartitionRule, partition: str, since: dt.date | None) -> bool:
    """Whether Iceberg keeps a partition."""
    return since is None or partition_range(rule, partition)[0] >= since


def kept_sql(rule: PartitionRule, since: dt.date | None) -> str:
    """ClickHouse's predicate of the rows that Iceberg keeps."""
    return "1" if since is None else midnight_sql(rule, since, ">=")


def kept_bound(since: dt.date) -> str:
    """The first moment that Iceberg keeps, as PyIceberg takes it."""
    return f"{since}T00:00:00+00:00"


def kept_filter(rule: PartitionRule, since: dt.date | None) -> str:
    """PyIceberg's filter of the same rows, to follow another one; nothing when all are kept."""
    return "" if since is None else f" and {rule.column} >= '{kept_bound(since)}'"

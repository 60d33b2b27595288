"""Which days Iceberg keeps: whole partitions, and what was deleted once stays left out."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2.offload.kept import KEPT_FROM, first_kept, is_kept, kept_filter, kept_from, kept_sql
from k2.offload.lake import partition_value
from k2.offload.partition import partition_name, partition_of, partition_range
from k2.registry import PartitionRule, Table, registry

days = st.dates(dt.date(1900, 1, 1), dt.date(2299, 12, 30))
units = pytest.mark.parametrize("by", ["day", "month", "year"])
DAY = dt.date(2024, 11, 20)


def rule(by: str) -> PartitionRule:
    return PartitionRule(column="time", by=by)


def table(by: str, retention: int | None) -> Table:
    return (
        registry()
        .table("ohlcv_1m")
        .model_copy(update={"partition": rule(by), "lake_retention_days": retention})
    )


@units
@given(today=days, retention=st.integers(1, 5000))
def test_a_row_of_the_last_days_is_kept_and_a_whole_partition_before_them_is_not(
    by: str, today: dt.date, retention: int
) -> None:
    oldest = today - dt.timedelta(days=retention)
    first = first_kept(table(by, retention), today)
    assert first is not None
    assert is_kept(rule(by), partition_of(rule(by), oldest), first)
    before = partition_of(rule(by), first - dt.timedelta(days=1))
    assert not is_kept(rule(by), before, first)
    assert partition_range(rule(by), before)[1] == first <= oldest


def test_without_a_retention_everything_is_kept() -> None:
    assert first_kept(table("day", None), DAY) is None
    assert kept_from({}) is None
    assert is_kept(rule("day"), "1970-01-01", None)
    assert (kept_sql(rule("day"), None), kept_filter(rule("day"), None)) == ("1", "")


def test_both_sides_are_asked_for_the_same_days() -> None:
    since = kept_from({KEPT_FROM: "2024-11-20"})
    assert since == DAY
    assert kept_sql(rule("day"), since) == (
        "`time` >= toDateTime64('2024-11-20 00:00:00', 3, 'UTC')"
    )
    assert kept_filter(rule("day"), since) == " and time >= '2024-11-20T00:00:00+00:00'"


@units
@given(day=days)
def test_a_partition_has_the_name_that_iceberg_counts_to(by: str, day: dt.date) -> None:
    name = partition_of(rule(by), day)
    counted = partition_value(rule(by), name)
    value = (day - dt.date(1970, 1, 1)).days if by == "day" else int(counted)
    assert partition_name(rule(by), value) == name


def test_a_date_of_iceberg_is_the_name_of_its_day() -> None:
    assert partition_name(rule("day"), DAY) == "2024-11-20"

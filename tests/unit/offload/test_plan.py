"""Plans: partitions in time, names of batches, intents as JSON."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2.errors import OffloadError
from k2.offload.cursor import Token, make_token
from k2.offload.lake import partition_value
from k2.offload.partition import partition_range
from k2.offload.plan import Intent, PartitionPlan, batch_name, parse_intent
from k2.registry import PartitionRule, registry

LENGTHS = {"day": 10, "month": 7, "year": 4}
TABLE = registry().table("bronze_trades_binance")


def token(offset: int) -> Token:
    return make_token(TABLE.cursor, [(0, offset)])


@pytest.mark.parametrize("by", LENGTHS)
@given(day=st.dates(dt.date(1900, 1, 1), dt.date(2299, 12, 30)))
def test_a_partition_holds_each_of_its_days_and_ends_where_the_next_begins(
    by: str, day: dt.date
) -> None:
    rule = PartitionRule(column="time", by=by)
    start, end = partition_range(rule, day.isoformat()[: LENGTHS[by]])
    assert start <= day < end
    assert partition_range(rule, end.isoformat()[: LENGTHS[by]])[0] == end
    last = end - dt.timedelta(days=1)
    assert last.isoformat()[: LENGTHS[by]] == day.isoformat()[: LENGTHS[by]]


@pytest.mark.parametrize(
    ("by", "partition", "value"),
    [
        ("day", "2024-02-29", "2024-02-29"),
        ("month", "1970-01", "0"),
        ("month", "1969-12", "-1"),
        ("month", "2024-02", "649"),
        ("year", "1970", "0"),
        ("year", "1969", "-1"),
        ("year", "2024", "54"),
    ],
)
def test_iceberg_counts_months_and_years_since_1970(by: str, partition: str, value: str) -> None:
    assert partition_value(PartitionRule(column="time", by=by), partition) == value


def test_a_batch_has_the_same_name_at_every_attempt() -> None:
    assert batch_name(TABLE, token(1), token(5)) == batch_name(TABLE, token(1), token(5))
    assert batch_name(TABLE, token(1), token(5)) == "55a955da5f4f702a"


def test_another_table_or_range_is_another_batch() -> None:
    other = registry().table("bronze_trades_kraken")
    names = {
        batch_name(TABLE, token(1), token(5)),
        batch_name(TABLE, token(1), token(6)),
        batch_name(TABLE, token(2), token(5)),
        batch_name(TABLE, None, token(5)),
        batch_name(other, token(1), token(5)),
    }
    assert len(names) == 5


@pytest.mark.parametrize("lower", [None, token(1)])
def test_an_intent_is_read_back_as_it_was_written(lower: Token | None) -> None:
    partitions = (PartitionPlan("2024-11-20", 3, 2**64 - 1), PartitionPlan("2024-11-21", 4, 0))
    intent = Intent("a", "file:/a", lower, token(5), partitions)
    assert parse_intent(intent.to_document(), TABLE) == intent
    assert intent.rows == 7


def test_an_intent_of_another_table_is_refused() -> None:
    intent = Intent("a", "file:/a", None, token(5), ())
    with pytest.raises(OffloadError, match="a token of another cursor than version"):
        parse_intent(intent.to_document(), registry().table("ohlcv_1m"))
    with pytest.raises(OffloadError, match=r"^not an intent of bronze_trades_binance: \{'batch'"):
        parse_intent({"batch": 1}, TABLE)

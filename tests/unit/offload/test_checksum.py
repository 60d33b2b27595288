"""The checksum of a set of rows: it forgets their order and nothing else."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2.offload.checksum import add_checksums
from k2.offload.checksum_arrow import checksum_arrow
from k2.offload.schema import parse_column

COLUMNS = (
    parse_column("id", "UInt64"),
    parse_column("name", "Nullable(String)"),
    parse_column("price", "Nullable(Decimal(38, 8))"),
    parse_column("size", "Nullable(Decimal(9, 2))"),
    parse_column("time", "Nullable(DateTime64(6))"),
    parse_column("day", "Nullable(Date32)"),
    parse_column("rate", "Nullable(Float64)"),
    parse_column("flag", "Nullable(Bool)"),
)
SCHEMA = pa.schema(
    {
        "id": pa.int64(),
        "name": pa.string(),
        "price": pa.decimal128(38, 8),
        "size": pa.decimal128(9, 2),
        "time": pa.timestamp("us", "UTC"),
        "day": pa.date32(),
        "rate": pa.float64(),
        "flag": pa.bool_(),
    }
)
Row = tuple[Any, ...]

rows = st.tuples(
    st.integers(-(2**63), 2**63 - 1),
    st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    st.none() | st.integers(-(10**38) + 1, 10**38 - 1).map(lambda n: Decimal(f"{n}e-8")),
    st.none() | st.integers(-(10**9) + 1, 10**9 - 1).map(lambda n: Decimal(f"{n}e-2")),
    st.none() | st.datetimes(dt.datetime(1900, 1, 1), timezones=st.just(dt.UTC)),  # noqa: DTZ001
    st.none() | st.dates(dt.date(1900, 1, 1)),
    st.none() | st.floats(allow_nan=False),
    st.none() | st.booleans(),
)
tables = st.lists(rows, max_size=12)


def arrow(of: list[Row]) -> pa.Table:
    names = SCHEMA.names
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in of], SCHEMA)


def checksum(of: list[Row]) -> int:
    return checksum_arrow(arrow(of), COLUMNS)


@given(tables, st.randoms())
def test_the_order_of_rows_does_not_matter(table: list[Row], random: Any) -> None:
    before = checksum(table)
    random.shuffle(table)
    assert checksum(table) == before


@given(tables, st.integers(0, 12))
def test_the_checksums_of_disjoint_sets_add_up_to_that_of_their_union(
    table: list[Row], cut: int
) -> None:
    whole = checksum(table)
    assert add_checksums([checksum(table[:cut]), checksum(table[cut:])]) == whole
    # As read in pieces, with offsets into shared buffers.
    pieces = arrow(table).to_batches(max_chunksize=max(cut, 1))
    assert add_checksums(checksum_arrow(piece, COLUMNS) for piece in pieces) == whole


@given(tables, rows)
def test_a_row_lost_or_doubled_changes_it(table: list[Row], row: Row) -> None:
    assert checksum([*table, row]) != checksum(table)
    assert checksum([*table, row, row]) != checksum([*table, row])


@given(tables, rows, rows, st.integers(0, len(COLUMNS) - 1))
def test_a_changed_value_changes_it(table: list[Row], row: Row, other: Row, at: int) -> None:
    changed = (*row[:at], other[at], *row[at + 1 :])
    same = arrow([row]).equals(arrow([changed])) and repr(row) == repr(changed)
    assert (checksum([*table, row]) == checksum([*table, changed])) == same


def test_values_that_change_places_change_it() -> None:
    columns = (parse_column("a", "Int64"), parse_column("b", "Int64"))
    one, other = (pa.table({"a": [1, 2], "b": b}) for b in ([7, 8], [8, 7]))
    swapped = pa.table({"a": [7, 8], "b": [1, 2]})
    sums = {checksum_arrow(table, columns) for table in (one, other, swapped)}
    assert len(sums) == 3


@given(tables)
def test_a_column_of_nulls_adds_nothing(table: list[Row]) -> None:
    wide = arrow(table).append_column("later", pa.nulls(len(table), pa.int64()))
    later = parse_column("later", "Nullable(Int64)")
    assert checksum_arrow(wide, (*COLUMNS, later)) == checksum(table)


@pytest.mark.parametrize(("column", "value"), [("name", ""), ("rate", 0.0), ("flag", False)])
def test_a_null_is_not_the_zero_of_its_type(column: str, value: object) -> None:
    at = SCHEMA.names.index(column)
    null: Row = (1, *[None] * 7)
    assert checksum([null]) != checksum([(*null[:at], value, *null[at + 1 :])])


def test_a_nullable_column_sums_like_one_that_is_not() -> None:
    table = pa.table({"a": [1, -2, 3]})
    sums = {
        checksum_arrow(table, (parse_column("a", clickhouse_type),))
        for clickhouse_type in ("Int64", "Nullable(Int64)", "UInt64", "UInt32")
    }
    assert len(sums) == 1


def test_no_rows_sum_to_zero() -> None:
    assert checksum([]) == 0
    assert checksum_arrow(SCHEMA.empty_table(), COLUMNS) == 0
    assert checksum_arrow(pa.RecordBatch.from_pylist([], SCHEMA), COLUMNS) == 0


def test_the_number_stays_what_the_history_has() -> None:
    row = (
        7,
        "BTC/USDT ✓",
        Decimal("-1.00000001"),
        Decimal("3.25"),
        dt.datetime(2024, 11, 20, 1, 2, 3, 4, dt.UTC),
        dt.date(1969, 12, 31),
        1.5,
        True,
    )
    assert checksum([row]) == 3979932391616956568

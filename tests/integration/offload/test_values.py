"""Values of every type on their way: ClickHouse, Parquet and NumPy agree on every row."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2.errors import OffloadError, RegistryError
from k2.offload.checksum import add_checksums, checksum_sql
from k2.offload.checksum_arrow import checksum_arrow
from k2.offload.plan import plan_batch
from k2.offload.ranges import next_range
from k2.offload.schema import source_columns
from k2.offload.storage import FileSystem
from k2.offload.unload import unload, verify
from k2.registry import PartitionRule, registry

from .rows import trade

if TYPE_CHECKING:
    from collections.abc import Callable

    from clickhouse_connect.driver.client import Client

    from .conftest import Bench

UTC = dt.UTC


def integers(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low, high) | st.sampled_from([low, high])


def decimals(precision: int, scale: int) -> st.SearchStrategy[Decimal]:
    limit = 10**precision - 1
    # Built from text: Decimal arithmetic would round to the digits of the context.
    return integers(-limit, limit).map(lambda number: Decimal(f"{number}e-{scale}"))


def times(year: int, until: int, microseconds: int) -> st.SearchStrategy[dt.datetime]:
    def cut(time: dt.datetime) -> dt.datetime:
        return time.replace(microsecond=time.microsecond // microseconds * microseconds, tzinfo=UTC)

    return st.datetimes(dt.datetime(year, 1, 1), dt.datetime(until, 1, 1)).map(cut)  # noqa: DTZ001


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.floats(allow_nan=False)
TYPES: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "a_bool": ("Bool", st.booleans()),
    "an_int8": ("Int8", integers(-(2**7), 2**7 - 1)),
    "an_int16": ("Int16", integers(-(2**15), 2**15 - 1)),
    "an_int32": ("Int32", integers(-(2**31), 2**31 - 1)),
    "an_int64": ("Int64", integers(-(2**63), 2**63 - 1)),
    "a_uint8": ("UInt8", integers(0, 2**8 - 1)),
    "a_uint16": ("UInt16", integers(0, 2**16 - 1)),
    "a_uint32": ("UInt32", integers(0, 2**32 - 1)),
    "a_uint64": ("UInt64", integers(0, 2**63 - 1)),
    "a_float32": ("Float32", st.floats(allow_nan=False, width=32)),
    "a_float64": ("Float64", numbers),
    "a_decimal32": ("Decimal(9, 4)", decimals(9, 4)),
    "a_decimal64": ("Decimal(18, 8)", decimals(18, 8)),
    "a_decimal128": ("Decimal(38, 8)", decimals(38, 8)),
    "a_date": ("Date", st.dates(dt.date(1970, 1, 1), dt.date(2149, 6, 6))),
    "a_date32": ("Date32", st.dates(dt.date(1900, 1, 1), dt.date(2299, 12, 31))),
    "a_time": ("DateTime", times(1970, 2106, 1_000_000)),
    "a_time_of_a_zone": ("DateTime('America/New_York')", times(1970, 2106, 1_000_000)),
    "milliseconds": ("DateTime64(3)", times(1900, 2262, 1_000)),
    "microseconds": ("DateTime64(6, 'Asia/Tokyo')", times(1900, 2262, 1)),
    "a_string": ("String", text),
    "a_dictionary": ("LowCardinality(String)", text),
    "an_enum": ("Enum8('buy' = -1, 'sell' = 2)", st.sampled_from(["buy", "sell"])),
    "maybe_int": ("Nullable(Int64)", st.none() | integers(-(2**63), 2**63 - 1)),
    "maybe_bool": ("Nullable(Bool)", st.none() | st.booleans()),
    "maybe_float": ("Nullable(Float64)", st.none() | numbers),
    "maybe_decimal": ("Nullable(Decimal(18, 8))", st.none() | decimals(18, 8)),
    "maybe_wide": ("Nullable(Decimal(38, 8))", st.none() | decimals(38, 8)),
    "maybe_time": ("Nullable(DateTime64(3))", st.none() | times(1900, 2262, 1_000)),
    "maybe_text": ("LowCardinality(Nullable(String))", st.none() | text),
}
TYPES["maybe_date"] = (
    "Nullable(Date32)",
    st.none() | st.dates(dt.date(1900, 1, 1), dt.date(2299, 12, 31)),
)
COLUMNS = """
    kafka_partition UInt16, kafka_offset UInt64, exchange_timestamp DateTime64(3, 'UTC'),
""" + ", ".join(f"{name} {type_}" for name, (type_, _) in TYPES.items())
rows_of_values = st.lists(
    st.fixed_dictionaries({name: values for name, (_, values) in TYPES.items()}),
    min_size=1,
    max_size=8,
)


@pytest.fixture(scope="module")
def every_type(client: Client) -> Any:
    """A table with a column of every type, and its registry entry."""
    client.command(
        f"create table every_type ({COLUMNS}) engine = ReplacingMergeTree"
        " order by (kafka_partition, kafka_offset)"
    )
    return registry().table("bronze_trades_binance").model_copy(update={"name": "every_type"})


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=rows_of_values)
def test_the_checksum_is_the_same_number_in_table_files_and_numpy(
    client: Client, every_type: Any, tmp_path_factory: pytest.TempPathFactory, rows: Any
) -> None:
    place = {"kafka_partition": 1, "exchange_timestamp": dt.datetime(2024, 11, 20, tzinfo=UTC)}
    rows = [{**place, "kafka_offset": offset, **row} for offset, row in enumerate(rows)]
    names = list(rows[0])
    client.command("truncate table every_type")
    client.insert("every_type", [[row[name] for name in names] for row in rows], column_names=names)
    columns = source_columns(client, every_type)
    new = next_range(client, every_type, None)
    assert new is not None
    directory = f"file:{tmp_path_factory.mktemp('files')}"
    intent = plan_batch(client, every_type, columns, new, directory=directory, attempt="1")
    (file,) = unload(client, FileSystem(), every_type, columns, intent)
    verify(client, FileSystem(), columns, intent)
    (of_table,) = (part.checksum for part in intent.partitions)
    # Read as it lies in the file, not partitioned by the names of its directories.
    read = pq.ParquetFile(Path(file.location.removeprefix("file:"))).read()
    assert checksum_arrow(read, columns) == of_table
    assert add_checksums(checksum_arrow(b, columns) for b in read.to_batches(2)) == of_table
    for row, found in zip(rows, read.sort_by("kafka_offset").to_pylist(), strict=True):
        assert found == row


def test_the_checksum_of_no_rows_is_zero_everywhere(bronze: Bench) -> None:
    sql = checksum_sql(bronze.columns, of_source=True)
    assert bronze.client.query(f"select {sql} from {bronze.name}").result_rows == [(0,)]
    empty = bronze.iceberg().scan().to_arrow()
    assert checksum_arrow(empty, bronze.columns) == 0


def test_a_column_added_later_leaves_the_checksum_of_older_rows(bronze: Bench) -> None:
    bronze.insert([trade(offset) for offset in range(9)])

    def checksum() -> int:
        sql = checksum_sql(bronze.columns, of_source=True)
        number: int = bronze.client.query(f"select {sql} from {bronze.name}").result_rows[0][0]
        return number

    before = checksum()
    bronze.client.command(f"alter table {bronze.name} add column fee Nullable(Decimal(18, 8))")
    assert checksum() == before
    bronze.client.command(f"alter table {bronze.name} modify column symbol Nullable(String)")
    assert checksum() == before


@pytest.mark.parametrize(
    "clickhouse_type",
    [
        "Int128",
        "UInt256",
        "Decimal(39, 8)",
        "DateTime64(9, 'UTC')",
        "FixedString(3)",
        "UUID",
        "Array(String)",
        "Map(String, String)",
        "Tuple(a UInt8)",
    ],
)
def test_a_type_without_a_counterpart_is_refused_by_name(
    make_bench: Callable[..., Bench], clickhouse_type: str
) -> None:
    bench = make_bench("bronze")
    bench.client.command(f"alter table {bench.name} add column odd {clickhouse_type}")
    with pytest.raises(OffloadError, match=r"column odd: ClickHouse type .* has no exact") as error:
        bench.offload()
    assert f"ClickHouse type {clickhouse_type} has" in str(error.value)
    excluded = bench.with_table(exclude=("arrival_rank", "odd"))
    excluded.insert([trade(0)])
    assert excluded.offload().rows == 1


def test_a_table_that_is_not_there_says_how_to_make_it(bronze: Bench) -> None:
    bronze.client.command(f"drop table {bronze.name}")
    with pytest.raises(OffloadError, match=f"^{bronze.name}: no such table in ClickHouse .*k2 ini"):
        bronze.offload()


def test_a_source_without_a_column_of_its_entry_is_refused(bronze: Bench) -> None:
    other = bronze.with_table(partition=PartitionRule(column="traded_at", by="day"))
    with pytest.raises(RegistryError, match=f"{bronze.name}: the source table has no column trade"):
        other.offload()

"""Ranges between tokens, on the real engine: they hold every row exactly once."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2.offload import source
from k2.offload.cursor import Token, parse_token, range_sql
from k2.offload.plan import next_upper
from k2.offload.source import source_sql
from k2.registry import OffsetCursor, TimestampCursor, VersionCursor, registry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from clickhouse_connect.driver.client import Client

    from k2.registry import Table

MIDNIGHT = dt.datetime(2024, 11, 20, tzinfo=dt.UTC)
EXAMPLES = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
Row = tuple[Any, ...]


@pytest.fixture(scope="module")
def rows_table(client: Client) -> str:
    client.command(
        "create table ranges (id UInt32, exchange LowCardinality(String), log UInt16, place UInt64,"
        " seconds DateTime('America/New_York'), millis DateTime64(3), micros DateTime64(6))"
        " engine = ReplacingMergeTree order by id"
    )
    return "ranges"


@pytest.fixture(params=[source.NARROWED_OF, 1], ids=["plain", "narrowed"])
def narrowed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of a few rows read as it is, or as a large one is."""
    monkeypatch.setattr(source, "NARROWED_OF", request.param)


def entry(cursor: Any, max_batch_rows: int = 10_000) -> Table:
    return (
        registry()
        .table("silver_trades")
        .model_copy(update={"name": "ranges", "cursor": cursor, "max_batch_rows": max_batch_rows})
    )


def insert(client: Client, rows: Sequence[Row]) -> None:
    """Rows of id, exchange, log partition, offset, and a time in milliseconds after midnight."""
    values = [(*row[:4], *[MIDNIGHT + dt.timedelta(milliseconds=row[4])] * 3) for row in rows]
    if values:
        client.insert("ranges", values)


def move_all(client: Client, table: Table, lower: Token | None) -> tuple[list[int], Token | None]:
    """All batches after a token: the ids that each holds, one after the other, and the end."""
    moved: list[int] = []
    while upper := next_upper(client, table, lower):
        # What is written down is what is read back.
        upper = parse_token(upper.to_json(), table.cursor)
        where = range_sql(table.cursor, lower, upper)
        found = client.query(f"select id from {source_sql(client, table)} where {where}")
        ids = [row[0] for row in found.result_rows]
        assert ids, "a batch without rows would go on for ever"
        moved += ids
        lower = upper
    return moved, lower


def log_rows(first: int) -> st.SearchStrategy[list[tuple[str, int, int, int]]]:
    place = st.tuples(
        st.sampled_from(["binance", "it's", "back\\slash"]),
        st.integers(0, 2),
        st.integers(first, first + 60) | st.just(2**63 - 1 - first),
        st.integers(0, 5),
    )
    return st.lists(place, max_size=40)


@EXAMPLES
@given(now=log_rows(0), size=st.integers(1, 50), data=st.data())
@pytest.mark.parametrize("columns", [("log",), ("exchange", "log")], ids=["one", "two"])
@pytest.mark.usefixtures("narrowed")
def test_offsets(
    client: Client, rows_table: str, columns: Any, now: Any, size: int, data: st.DataObject
) -> None:
    client.command(f"truncate table {rows_table}")
    cursor = OffsetCursor(kind="kafka_offset", partition=columns, offset="place")
    table = entry(cursor, size)
    # One message can hold several trades: rows of one offset arrive together.
    rows = [(number, *row) for number, row in enumerate(now)]
    insert(client, rows)
    moved, token = move_all(client, table, None)
    assert sorted(moved) == [row[0] for row in rows]
    reached: dict[Row, int] = {}
    for row in rows:
        key = row[1:3] if len(columns) == 2 else row[2:3]
        reached[key] = max(reached.get(key, -1), row[3])
    assert dict(position_items(token)) == reached
    # What comes later has higher offsets in its partition; new partitions begin anywhere.
    later = []
    for number, row in enumerate(data.draw(log_rows(61)), start=1000):
        key = row[:2] if len(columns) == 2 else row[1:2]
        if row[2] > reached.get(key, -1):
            later.append((number, *row))
    insert(client, later)
    moved, _ = move_all(client, table, token)
    assert sorted(moved) == [row[0] for row in later]


def position_items(token: Token | None) -> list[tuple[Row, int]]:
    return [(position[:-1], int(position[-1])) for position in token.positions] if token else []


@EXAMPLES
@given(
    offsets=st.lists(st.integers(0, 30) | st.integers(2000, 2030), max_size=40),
    size=st.integers(1, 20),
    cut=st.integers(0, 40),
)
@pytest.mark.parametrize("column", ["seconds", "millis", "micros"])
def test_times_with_tie_breakers(
    client: Client, rows_table: str, column: str, offsets: list[int], size: int, cut: int
) -> None:
    client.command(f"truncate table {rows_table}")
    cursor = TimestampCursor(
        kind="timestamp", column=column, tie_breakers=("exchange", "id"), safety_lag_seconds=0
    )
    table = entry(cursor, size)
    rows = [(number, "it's", 0, 0, offset) for number, offset in enumerate(sorted(offsets))]
    token: Token | None = None
    for part in (rows[:cut], rows[cut:]):
        insert(client, part)
        moved, token = move_all(client, table, token)
        assert sorted(moved) == [row[0] for row in part]


def test_time_batches_have_the_size_asked_for_even_among_equal_times(
    client: Client, rows_table: str
) -> None:
    client.command(f"truncate table {rows_table}")
    insert(client, [(number, "a", 0, 0, 7) for number in range(10)])
    cursor = TimestampCursor(kind="timestamp", column="seconds", tie_breakers=("id",))
    upper = next_upper(client, entry(cursor, 4), None)
    assert upper is not None
    count = f"select count() from ranges where {range_sql(cursor, None, upper)}"
    assert client.query(count).result_rows == [(4,)]


def test_rows_younger_than_the_safety_lag_wait(client: Client, rows_table: str) -> None:
    client.command(f"truncate table {rows_table}")
    insert(client, [(1, "a", 0, 0, 0)])
    client.command("insert into ranges select 2, 'a', 0, 0, now(), now64(3), now64(6)")
    cursor = TimestampCursor(kind="timestamp", column="millis", safety_lag_seconds=3600)
    moved, token = move_all(client, entry(cursor), None)
    assert moved == [1]
    impatient = cursor.model_copy(update={"safety_lag_seconds": 0})
    assert move_all(client, entry(impatient), token)[0] == [2]


@EXAMPLES
@given(
    offsets=st.lists(st.integers(0, 30) | st.integers(2000, 2030), max_size=40),
    cut=st.integers(0, 2030),
)
@pytest.mark.parametrize("column", ["seconds", "millis", "micros"])
def test_versions(
    client: Client, rows_table: str, column: str, offsets: list[int], cut: int
) -> None:
    client.command(f"truncate table {rows_table}")
    # Seconds cannot tell apart what is written within one: the second run is another second.
    offsets = [offset * 1000 for offset in offsets]
    table = entry(VersionCursor(kind="version", column=column))
    rows = [(number, "", 0, 0, offset) for number, offset in enumerate(offsets)]
    token: Token | None = None
    for part in (
        [row for row in rows if row[4] <= cut * 1000],
        [row for row in rows if row[4] > cut * 1000],
    ):
        insert(client, part)
        moved, token = move_all(client, table, token)
        assert sorted(moved) == [row[0] for row in part]


@pytest.mark.parametrize("microseconds", [-1, 0, 1, 1_700_000_000_000_001])
def test_any_time_can_be_a_token(client: Client, rows_table: str, microseconds: int) -> None:
    for cursor in (
        VersionCursor(kind="version", column="micros"),
        TimestampCursor(kind="timestamp", column="micros"),
    ):
        where = range_sql(cursor, None, Token(cursor.kind, ((microseconds,),)))
        client.query(f"select count() from ranges where {where}")


@pytest.fixture
def scattered(client: Client) -> Iterator[Table]:
    """A million trades of ten markets, as Silver sorts them; new ones lie between old ones."""
    client.command(
        "create table scattered (exchange LowCardinality(String), canonical_symbol String,"
        " timestamp DateTime64(3, 'UTC'), trade_id UInt64, kafka_partition UInt16,"
        " kafka_offset UInt64, arrival_rank UInt128,"
        " index log_range (exchange, kafka_partition, kafka_offset) type minmax granularity 1)"
        " engine = ReplacingMergeTree(arrival_rank)"
        " order by (exchange, canonical_symbol, timestamp, trade_id)"
        " settings index_granularity = 1024"
    )
    add_trades(client, "number", 0, 1_000_000)
    yield registry().table("silver_trades").model_copy(update={"name": "scattered"})
    client.command("drop table scattered")


def add_trades(client: Client, second: str, first: int, count: int, *, again: int = 0) -> None:
    """Trades whose numbers are their offsets; `again`: the partition of a second delivery."""
    client.command(
        "insert into scattered select 'binance', concat('M', toString(number % 10)),"
        f" toDateTime64('2024-11-20 00:00:00', 3, 'UTC') + {second}, number, {again}, number,"
        f" {0 if again else 1} from numbers({first}, {count})"
    )


def test_a_few_new_rows_are_found_without_reading_those_around_them(
    client: Client, scattered: Table
) -> None:
    lower = Token("kafka_offset", (("binance", 0, 999_999),))
    add_trades(client, "if(number % 50 = 0, intDiv(number, 2), number)", 1_000_000, 500)
    before = rows_read(client)
    upper = next_upper(client, scattered, lower)
    assert upper is not None
    assert upper.positions == (("binance", 0, 1_000_499),)
    assert rows_read(client) - before < 100_000


def test_a_rush_is_cut_into_ranges_that_hold_each_trade_once(
    client: Client, scattered: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some old ones come again in it: no range ends at a row that a merge takes away."""
    monkeypatch.setattr(source, "NARROWED_VERSIONS", 200)
    lower: Token | None = Token("kafka_offset", (("binance", 0, 999_999),))
    add_trades(client, "number", 1_000_000, 1_000)
    add_trades(client, "number", 999_000, 900, again=1)
    found: list[int] = []
    batches = 0
    while upper := next_upper(client, scattered, lower):
        where = range_sql(scattered.cursor, lower, upper)
        rows = client.query(f"select trade_id from {source_sql(client, scattered)} where {where}")
        found += [row[0] for row in rows.result_rows]
        lower, batches = upper, batches + 1
    assert sorted(found) == list(range(1_000_000, 1_001_000))
    assert batches >= 1_000 // 200
    assert lower == Token("kafka_offset", (("binance", 0, 1_000_999),))


def rows_read(client: Client) -> int:
    """Rows that ClickHouse has read since it started."""
    query = "select value from system.events where event = 'SelectedRows'"
    return int(client.query(query).result_rows[0][0])

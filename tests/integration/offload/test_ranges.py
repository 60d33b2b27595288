"""Ranges between tokens, on the real engine: they hold every row exactly once."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2.offload import source
from k2.offload.cursor import Token, parse_token, range_sql
from k2.offload.plan import Intent, plan_batch
from k2.offload.ranges import next_range, range_between
from k2.offload.schema import source_columns
from k2.offload.source import source_sql
from k2.offload.storage import FileSystem
from k2.offload.unload import unload
from k2.registry import OffsetCursor, TimestampCursor, VersionCursor, registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

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
    while new := next_range(client, table, lower):
        # What is written down is what is read back.
        upper = parse_token(new.upper.to_json(), table.cursor)
        where = range_sql(table.cursor, lower, upper)
        ids = column(client, table, "id", where)
        assert ids, "a batch without rows would go on for ever"
        for taken in (new, range_between(client, table, lower, upper)):
            assert sorted(column(client, table, "id", taken.where)) == sorted(ids)
        moved += ids
        lower = upper
    return moved, lower


def column(client: Client, table: Table, name: str, where: str) -> list[int]:
    rows = client.query(f"select {name} from {source_sql(client, table)} where {where}").result_rows
    return [row[0] for row in rows]


def log_rows(first: int) -> st.SearchStrategy[list[tuple[str, int, int, int]]]:
    place = st.tuples(
        st.sampled_from(["binance", "it's", "back\\slash"]),
        st.integers(0, 2),
        st.integers(first, first + 60) | st.just(2**63 - 1 - first),
        st.integers(0, 5),
    )
    return st.lists(place, max_size=40)


def test_a_batch_is_bounded_also_where_offsets_lie_far_apart(
    client: Client, rows_table: str
) -> None:
    client.command(f"truncate table {rows_table}")
    cursor = OffsetCursor(kind="kafka_offset", partition=("log",), offset="place")
    places = (*range(1000), 10**9, *range(10**12, 10**12 + 1000))
    insert(client, [(number, "", 0, place, 0) for number, place in enumerate(places)])
    sizes, lower, table = [], None, entry(cursor, 100)
    while new := next_range(client, table, lower):
        sizes.append(len(column(client, table, "id", new.where)))
        lower = new.upper
    assert sum(sizes) == len(places)
    assert max(sizes) <= 125


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
    new = next_range(client, entry(cursor, 4), None)
    assert new is not None
    count = f"select count() from ranges where {range_sql(cursor, None, new.upper)}"
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
def make_scattered(client: Client) -> Iterator[Callable[[int], Table]]:
    """Trades of ten markets that came over ten days, as Silver keeps them, in one part a day."""
    made: list[str] = []

    def make(trades: int) -> Table:
        name = f"scattered_{trades}"
        client.command(
            f"create table {name} (exchange LowCardinality(String), canonical_symbol String,"
            " timestamp DateTime64(3, 'UTC'), trade_id UInt64, kafka_partition UInt16,"
            " kafka_offset UInt64, ingestion_timestamp DateTime64(3, 'UTC'), arrival_rank UInt128,"
            " index timestamp_range timestamp type minmax granularity 1,"
            " index log_range (exchange, kafka_partition, kafka_offset) type minmax granularity 1)"
            " engine = ReplacingMergeTree(arrival_rank) partition by toDate(ingestion_timestamp)"
            " order by (exchange, canonical_symbol, timestamp, trade_id)"
            " settings index_granularity = 512"
        )
        made.append(name)
        second = f"864000 * number / {trades}"
        add_trades(client, name, f"number as trade, {second} as second", 0, trades)
        client.command(f"optimize table {name} final")
        return registry().table("silver_trades").model_copy(update={"name": name})

    yield make
    for name in made:
        client.command(f"drop table {name}")


@pytest.fixture
def scattered(make_scattered: Callable[[int], Table]) -> Table:
    return make_scattered(100_000)


def add_trades(
    client: Client, name: str, trade: str, first: int, count: int, *, arrived: str = "second"
) -> None:
    """Trades of given ids and seconds of trading and arrival, at the offsets from `first` on."""
    start = "toDateTime64('2024-11-20 00:00:00', 3, 'UTC')"
    client.command(
        f"insert into {name} select 'binance', concat('M', toString(trade % 10)), {start} + second,"
        f" trade, 0, number, {start} + {arrived}, bitNot(toUInt128(number))"
        f" from (select number, {trade} from numbers({first}, {count}))"
    )


def plan_all(client: Client, table: Table, lower: Token, directory: Path) -> Intent:
    """The only batch after a token, its files written."""
    columns = source_columns(client, table)
    new = next_range(client, table, lower)
    assert new is not None
    intent = plan_batch(client, table, columns, new, directory=f"file:{directory}", attempt="1")
    unload(client, FileSystem(), table, columns, intent)
    return intent


def test_a_few_new_rows_cost_the_same_out_of_a_large_table_as_out_of_a_small_one(
    client: Client, make_scattered: Callable[[int], Table], tmp_path_factory: Any
) -> None:
    """One in fifty is late, by days."""
    read = {}
    for trades in (100_000, 1_000_000):
        table = make_scattered(trades)
        late = "number as trade, 864000 - if(number % 50 = 0, number % 7000 * 100, 0) as second"
        add_trades(client, table.name, late, trades, 500, arrived="864000")
        before = rows_read(client)
        lower = Token("kafka_offset", (("binance", 0, trades - 1),))
        intent = plan_all(client, table, lower, tmp_path_factory.mktemp("files"))
        assert intent.rows == 500
        read[trades] = rows_read(client) - before
    assert read[1_000_000] < 1.5 * read[100_000]


def test_the_files_hold_what_final_says_though_most_of_the_table_is_not_read(
    client: Client, scattered: Table, tmp_path_factory: Any
) -> None:
    """New trades, those of five days ago, and new ones that came twice."""
    lower = Token("kafka_offset", (("binance", 0, 99_999),))
    old = "50_000 + number % 300 as trade, 864000 * trade / 100000 as second"
    new = "200_000 + number % 300 as trade, 864000 + trade as second"
    add_trades(client, scattered.name, old, 100_000, 300, arrived="864000")
    add_trades(client, scattered.name, new, 100_300, 600, arrived="864000")
    intent = plan_all(client, scattered, lower, tmp_path_factory.mktemp("files"))
    assert intent.rows == 300
    assert intent.upper.positions == (("binance", 0, 100_599),)
    assert sorted(column(client, scattered, "trade_id", intent.rows_where)) == sorted(
        column(client, scattered, "trade_id", range_sql(scattered.cursor, lower, intent.upper))
    )


def test_a_rush_that_begins_with_old_trades_is_cut_into_ranges_that_hold_each_new_one_once(
    client: Client, scattered: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No range ends at a row that a merge takes away, nor takes one whose first arrival is old."""
    monkeypatch.setattr(source, "NARROWED_VERSIONS", 200)
    lower: Token | None = Token("kafka_offset", (("binance", 0, 99_999),))
    old = "50_000 + number % 900 as trade, 864000 * trade / 100000 as second"
    new = "number as trade, 864000 + number as second"
    add_trades(client, scattered.name, old, 100_000, 900, arrived="864000")
    add_trades(client, scattered.name, new, 100_900, 1_000, arrived="864000")
    found: list[int] = []
    batches = 0
    while batch := next_range(client, scattered, lower):
        found += column(client, scattered, "trade_id", batch.where)
        lower, batches = batch.upper, batches + 1
    assert sorted(found) == list(range(100_900, 101_900))
    assert batches >= 1_000 // 200
    assert lower == Token("kafka_offset", (("binance", 0, 101_899),))


def rows_read(client: Client) -> int:
    """Rows that ClickHouse has read since it started."""
    query = "select value from system.events where event = 'SelectedRows'"
    return int(client.query(query).result_rows[0][0])

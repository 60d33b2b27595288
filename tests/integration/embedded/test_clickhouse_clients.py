"""The embedded ClickHouse server, as clickhouse-connect uses it."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError
from clickhouse_connect.driver.external import ExternalData

# clickhouse-connect gives UTC as times without a zone.
AT = dt.datetime(2026, 1, 2, 3, 4, 5, 678000)  # noqa: DTZ001
AWKWARD = ["x\ty'\\z\n\\t", "é日", "", '"`;--/*']


def test_rows_come_back_as_they_were_inserted(client: Any) -> None:
    client.command(
        "create table t (a UInt64, s String, d DateTime64(3), x Decimal(18, 8), n Nullable(Int8))"
        " engine = MergeTree order by a"
    )
    rows = [(n, text, AT, Decimal("1.12345678"), None) for n, text in enumerate(AWKWARD)]
    summary = client.insert("t", rows, column_names=["a", "s", "d", "x", "n"])
    assert summary.written_rows == len(rows)
    assert client.query("select * from t order by a").result_rows == rows


def test_arrow_tables_go_both_ways(client: Any) -> None:
    client.command("create table t (a UInt64, s String) engine = MergeTree order by a")
    table = pa.table({"a": pa.array([1, 2], pa.uint64()), "s": ["x", "y"]})
    assert client.insert_arrow("t", table).written_rows == 2
    assert client.query_arrow("select * from t order by a").to_pydict() == table.to_pydict()


def test_data_frames_come_with_their_types(client: Any) -> None:
    frame = client.query_df(
        "select number, toDateTime64('2026-01-01', 3, 'UTC') as at from numbers(3)"
    )
    assert frame["number"].tolist() == [0, 1, 2]
    assert frame["at"].iloc[0] == pd.Timestamp("2026-01-01", tz=frame["at"].dt.tz)


@pytest.mark.parametrize("query", ["select 1 as a, 'x' as b where 0", "show tables like 'nothing'"])
def test_a_result_without_rows_keeps_its_columns(client: Any, query: str) -> None:
    result = client.query(query)
    assert result.result_rows == []
    assert result.column_names in {("a", "b"), ("name",)}


@pytest.mark.parametrize("value", AWKWARD)
@pytest.mark.parametrize("as_form", [False, True])
def test_parameters_are_bound_by_the_server(server: Any, value: str, as_form: bool) -> None:
    with server.client(form_encode_query_params=as_form) as client:
        rows = client.query(
            "select {v:String}, {a:Array(String)}, {n:Nullable(String)}, {d:DateTime64(3)},"
            " {i:Int8}",
            parameters={
                "v": value,
                "a": [value, "b"],
                "n": None,
                "d": AT,
                "i": -1,
            },
        ).result_rows
    assert rows == [(value, [value, "b"], None, AT, -1)]


def test_external_data_is_a_table_of_one_query(client: Any) -> None:
    data = ExternalData(
        file_name="ext.csv", data=b"1,a\n2,b\n", fmt="CSV", structure="id UInt8, v String"
    )
    query = "select v from ext where id = {id:UInt8}"
    found = client.query(query, parameters={"id": 2}, external_data=data)
    assert found.result_rows == [("b",)]
    with pytest.raises(DatabaseError) as error:
        client.query("select * from ext")
    assert error.value.code == 60


@pytest.mark.parametrize("encoding", ["lz4", "zstd", "gzip", False])
def test_compression_works_both_ways(server: Any, client: Any, encoding: str | bool) -> None:
    client.command("create table t (a UInt64, s String) engine = MergeTree order by a")
    with server.client(database="test", compress=encoding) as compressing:
        compressing.insert("t", [[n, "z" * 20] for n in range(50_000)], column_names=["a", "s"])
        rows = compressing.query("select sum(a), count(), any(s) from t").result_rows
        assert len(compressing.query("select * from t").result_rows) == 50_000
    assert rows == [(sum(range(50_000)), 50_000, "z" * 20)]


@pytest.mark.parametrize(
    "format_name", ["Native", "JSONEachRow", "CSVWithNames", "Parquet", "Arrow"]
)
def test_a_streamed_result_is_one_whole_document(client: Any, format_name: str) -> None:
    query = "select number, toString(number) as s from numbers(700000)"
    with client.raw_stream(query, fmt=format_name) as stream:
        streamed = b"".join(iter(lambda: stream.read(1 << 20), b""))
    client.command("create table t (number UInt64, s String) engine = MergeTree order by number")
    client.raw_insert("t", insert_block=streamed, fmt=format_name)
    assert client.query("select count(), sum(number), sum(toUInt64(s)) from t").result_rows == [
        (700_000, sum(range(700_000)), sum(range(700_000)))
    ]


def test_an_error_amid_a_stream_reaches_the_client(client: Any) -> None:
    query = "select throwIf(number = 9000000, 'too far'), toString(number) from numbers(10000000)"
    with (
        pytest.raises(StreamFailureError, match="too far"),
        client.query_row_block_stream(query) as blocks,
    ):
        for _ in blocks:
            pass
    assert client.command("select 1") == 1


def test_a_session_keeps_temporary_tables_and_settings(server: Any) -> None:
    with server.client() as mine, server.client() as other:
        mine.command("create temporary table mine (a Int8)")
        mine.command("insert into mine values (1), (2)")
        mine.command("set max_threads = 5")
        assert mine.query("select sum(a) from mine").result_rows == [(3,)]
        query = "select getSetting('max_threads')"
        assert mine.query(query, settings={"max_threads": 1}).result_rows == [(1,)]
        assert mine.query(query).result_rows == [(5,)]
        assert other.query(query).result_rows != [(5,)]
        with pytest.raises(DatabaseError) as error:
            other.query("select * from mine")
        assert error.value.code == 60


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("select nope", 47),
        ("select * from nope", 60),
        ("select 1 +", 62),
        ("select 1 settings nope = 1", 115),
        ("select 1; select 2", 62),
        ("select throwIf(number = 5) from numbers(10)", 395),
    ],
)
def test_errors_carry_the_code_of_clickhouse(client: Any, query: str, code: int) -> None:
    with pytest.raises(DatabaseError) as error:
        client.command(query)
    assert error.value.code == code


def test_a_broken_insert_names_the_row_and_leaves_the_session_usable(client: Any) -> None:
    client.command("create table t (a UInt64) engine = MergeTree order by a")
    with pytest.raises(DatabaseError, match="row 2"):
        client.raw_insert("t", insert_block=b"1\nx\n", fmt="CSV")
    assert client.command("select count() from t") == 0


EMPTY = (
    "select number as n, s, toDateTime64('2024-11-20', 3, 'UTC') as t from rows"
    " where n > {n:UInt64}"
)


@pytest.mark.parametrize(
    "query",
    [
        EMPTY,
        f"{EMPTY} union all {EMPTY}",
        f"with e as ({EMPTY}) select n, s, t from e -- no rows",
        f"{EMPTY} settings max_threads = 1",
        f"select n, s, t from ({EMPTY}) limit 0",
    ],
)
def test_an_empty_result_has_its_columns(client: Any, query: str) -> None:
    client.command("create table rows (number UInt64, s LowCardinality(String)) engine = Memory")
    client.command("insert into rows select number, 'x' from numbers(10)")
    result = client.query(query, parameters={"n": 100})
    assert (result.column_names, result.result_rows) == (("n", "s", "t"), [])
    assert [kind.name for kind in result.column_types] == [
        "UInt64",
        "LowCardinality(String)",
        "DateTime64(3, 'UTC')",
    ]


def test_a_query_with_an_empty_result_reads_its_rows_once(client: Any) -> None:
    def rows_read() -> int:
        return int(client.command("select value from system.events where event = 'SelectedRows'"))

    client.command("create table rows (number UInt64) engine = MergeTree order by tuple()")
    client.command("insert into rows select number from numbers(100000)")
    before = rows_read()
    assert client.query("select number from rows where number > 1000000").result_rows == []
    assert 100_000 <= rows_read() - before < 200_000

"""Which bytes of a request are SQL, which are data, and which name a format."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2.embedded.clickhouse.exceptions import QueryError
from k2.embedded.clickhouse.statements import first_word, insert_head, parse


@pytest.mark.parametrize(
    ("sql", "text", "format_name"),
    [
        (b"select 1 format JSON", "select 1 ", "JSON"),
        (b"select 1\nFORMAT  Native ;\n", "select 1\n", "Native"),
        (b"select 'format JSON'", "select 'format JSON'", None),
        (b"select 1 -- format JSON", "select 1 -- format JSON", None),
        (b"select (select 1 format JSON)", "select (select 1 format JSON)", None),
        (b"select format from t", "select format from t", None),
        (b"select `format` x, 1", "select `format` x, 1", None),
        (b"select $$ format JSON $$", "select $$ format JSON $$", None),
        (b"select 'it''s \\' ; ' format CSV", "select 'it''s \\' ; ' ", "CSV"),
    ],
)
def test_only_a_closing_format_clause_names_the_format(
    sql: bytes, text: str, format_name: str | None
) -> None:
    statement = parse(sql)
    assert (statement.text, statement.format) == (text, format_name)
    assert statement.has_result


def test_settings_behind_the_format_stay_behind_it() -> None:
    statement = parse(b"select 1 format CSV settings max_threads = 1")
    assert statement.into("/out", "CSV").endswith("APPEND FORMAT CSV  settings max_threads = 1")


def test_a_comment_at_the_end_does_not_swallow_the_redirection() -> None:
    assert "\nINTO OUTFILE" in parse(b"select 1 -- done").into("/out", "CSV")


@pytest.mark.parametrize("sql", [b"select 1; select 2", b"drop table a; drop table b"])
def test_two_statements_are_refused(sql: bytes) -> None:
    with pytest.raises(QueryError, match="Multi-statements"):
        parse(sql)


@pytest.mark.parametrize(
    "sql",
    [
        b"create table t (a Int8)",
        b"set a = 1",
        b"insert into t select 1",
        b"",
        b"select 1 into outfile 'x'",
        b"check grant select on k2.*",
    ],
)
def test_other_statements_are_left_as_they_are(sql: bytes) -> None:
    assert not parse(sql).has_result
    assert parse(sql).text == sql.decode()


@pytest.mark.parametrize(
    ("head", "format_name"),
    [
        (b"insert into t format CSV\n", "CSV"),
        (b"INSERT INTO TABLE db.t (a, `format`) SETTINGS x = 1 FORMAT Native \r\n", "Native"),
        (b"/* format CSV */ insert into format format TSV\n", "TSV"),
        (b"insert into function file('x', 'format CSV') format TSV ", "TSV"),
        (b"insert into t (a, b) values", "Values"),
    ],
)
@given(data=st.binary())
def test_data_begins_behind_the_format(head: bytes, format_name: str, data: bytes) -> None:
    data = b"(" + data
    found = insert_head(head + data)
    assert found is not None
    assert found.format == format_name
    assert (head + data)[found.data_offset :] == data


@pytest.mark.parametrize(
    "sql",
    [
        b"insert into t select 1",
        b"insert into t (a) with x as (select 1) select * from x",
        b"insert into t (select 1)",
        b"insert into t from infile 'x' format CSV",
    ],
)
def test_an_insert_from_a_query_or_file_has_no_data(sql: bytes) -> None:
    assert insert_head(sql) is None


@given(st.binary())
def test_any_bytes_can_be_read(sql: bytes) -> None:
    assert isinstance(first_word(sql), str)

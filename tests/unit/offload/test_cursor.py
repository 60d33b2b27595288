"""Tokens: how they are written, read, advanced and shown."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2.errors import OffloadError
from k2.offload.cursor import Token, advance, beyond_sql, make_token, parse_token, up_to_sql
from k2.registry import OffsetCursor, TimestampCursor, VersionCursor

ONE = OffsetCursor(kind="kafka_offset", partition=("log",), offset="place")
TWO = OffsetCursor(kind="kafka_offset", partition=("exchange", "log"), offset="place")
TIME = TimestampCursor(kind="timestamp", column="time", tie_breakers=("name", "id"))
VERSION = VersionCursor(kind="version", column="settled_at")

numbers = st.integers(0, 2**63 - 1)
times = st.integers(-(2**62), 2**62)
offsets = st.dictionaries(st.tuples(st.text(), st.integers(0, 9)), numbers, min_size=1)
tokens = st.one_of(
    st.tuples(st.just(ONE), st.dictionaries(numbers, numbers).map(lambda d: list(d.items()))),
    st.tuples(st.just(TWO), offsets.map(lambda d: [(*key, offset) for key, offset in d.items()])),
    st.tuples(st.just(TIME), st.tuples(times, st.text(), numbers).map(lambda p: [p])),
    st.tuples(st.just(VERSION), times.map(lambda time: [(time,)])),
)


@given(tokens, st.randoms())
def test_a_token_is_read_back_as_it_was_written_whatever_its_order(case: Any, random: Any) -> None:
    cursor, positions = case
    token = make_token(cursor, positions)
    random.shuffle(positions)
    assert parse_token(token.to_json(), cursor) == token
    assert make_token(cursor, positions).to_json() == token.to_json()


def test_the_text_of_a_token_stays_what_the_lake_has() -> None:
    token = make_token(TWO, [("kraken", 0, 9), ("binance", 1, 7), ("binance", 0, 8)])
    assert token.to_json() == (
        '{"cursor":"kafka_offset","positions":[["binance",0,8],["binance",1,7],["kraken",0,9]]}'
    )


def test_spaces_and_order_of_a_text_do_not_matter() -> None:
    text = '{ "positions": [[1, 7], [0, 8]], "cursor": "kafka_offset" }'
    assert parse_token(text, ONE) == Token("kafka_offset", ((0, 8), (1, 7)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "7",
        "[]",
        "{}",
        '{"cursor":"kafka_offset"}',
        '{"cursor":"version","positions":7}',
        '{"cursor":"kafka_offset","positions":[["a",1],[1,"a"]]}',
    ],
)
def test_what_is_no_token_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(OffloadError, match=r"^(not a token|a token of another cursor)") as error:
        parse_token(text, TWO)
    assert str(error.value).endswith(f": {text}")


@pytest.mark.parametrize(
    ("token", "cursor"),
    [
        (make_token(ONE, [(0, 1)]), TWO),
        (make_token(ONE, [(0, 1)]), VERSION),
        (make_token(TIME, [(0, "a", 1)]), VERSION),
        (make_token(VERSION, [(0,)]), TIME),
        (Token("version", ((1.5,),)), VERSION),  # type: ignore[arg-type]
        (Token("version", ((None,),)), VERSION),  # type: ignore[arg-type]
        (Token("version", ()), VERSION),
        (Token("version", (("now",),)), VERSION),
        (Token("version", ((True,),)), VERSION),
        (Token("timestamp", (("now", "a", 1),)), TIME),
        (Token("kafka_offset", ((0, "1 or 1"),)), ONE),
        (Token("version", ((1,), (2,))), VERSION),
    ],
)
def test_a_token_of_another_cursor_is_refused(token: Token, cursor: OffsetCursor) -> None:
    with pytest.raises(OffloadError, match=f"a token of another cursor than {cursor.kind}"):
        parse_token(token.to_json(), cursor)


def test_log_partitions_without_new_rows_keep_their_offset() -> None:
    lower = make_token(ONE, [(0, 5), (1, 5)])
    assert advance(lower, make_token(ONE, [(1, 9), (2, 0)])) == make_token(
        ONE, [(0, 5), (1, 9), (2, 0)]
    )


def test_a_time_is_replaced_and_the_first_token_is_taken_as_it_is() -> None:
    newer = make_token(VERSION, [(9,)])
    assert advance(make_token(VERSION, [(5,)]), newer) == newer
    assert advance(None, newer) == newer


def test_a_token_in_short() -> None:
    assert make_token(ONE, [(0, 999), (1, 0)]).describe() == "offset 1,001 over 2 partitions"
    assert make_token(VERSION, [(1_700_000_000_000_001,)]).describe() == "2023-11-14 22:13:20"
    assert make_token(TIME, [(-1, "a", 1)]).describe() == "1969-12-31 23:59:59"


def test_without_a_token_all_rows_are_beyond_and_none_is_up_to_an_empty_one() -> None:
    for cursor in (ONE, TIME, VERSION):
        assert beyond_sql(cursor, None) == "1"
    assert up_to_sql(ONE, Token("kafka_offset", ())) == "(0)"

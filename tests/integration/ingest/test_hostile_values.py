"""What comes from outside stays a value: no text ends a literal, a name or a statement."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.hostile import HOSTILE

from k2.clickhouse import quote_identifier, quote_string
from k2.ingest.dead_letter_replay import ReplayResult, replay_dead_letters
from k2.ingest.dead_letters import count_reasons, newest_dead_letters
from k2.ingest.messages import Message, kraken_message
from k2.ingest.replay import feed
from k2.ingest.trade import Trade
from k2.offload.cursor import beyond_sql, make_token, newest_sql, parse_token, up_to_sql
from k2.registry import OffsetCursor, registry

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from .conftest import Bronze

TIME = 1_767_571_200_000_000
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


def test_a_quoted_text_is_itself_to_the_engine(clickhouse: Client) -> None:
    @settings(max_examples=20)
    @given(st.lists(TEXTS | st.sampled_from(HOSTILE), min_size=1, max_size=50))
    def holds(texts: list[str]) -> None:
        array = f"[{', '.join(quote_string(text) for text in texts)}]"
        assert clickhouse.query(f"select {array}").result_rows == [(texts,)]

    holds()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_quoted_name_is_itself_to_the_engine(clickhouse: Client, name: str) -> None:
    answer = clickhouse.query(f"select 1 as {quote_identifier(name)}, 2 as other")
    assert list(answer.column_names) == [name, "other"]


def test_symbols_and_messages_of_any_text_are_kept_as_they_came(
    bronze: Bronze, conninfo: str
) -> None:
    price = Decimal(1)
    texts = [
        kraken_message([Trade("kraken", f"{text}/USD", 1, price, price, "buy", TIME)])
        for text in HOSTILE
    ]
    messages = [Message(symbol, text) for symbol, text in zip(HOSTILE, texts, strict=True)]
    result = feed(
        bronze.client, registry(), "kraken", messages, conninfo=conninfo, database=bronze.database
    )
    assert result.messages == len(HOSTILE)
    arrived = bronze.rows("select symbol from {db}.bronze_trades_kraken final")
    letters = newest_dead_letters(bronze.client, bronze.database, limit=1000)
    kept = [symbol for (symbol,) in arrived] + [one.raw_message for one in letters]
    expected = [
        f"{text}/USD" if f"{text}/USD" in kept else raw
        for text, raw in zip(HOSTILE, texts, strict=True)
    ]
    assert sorted(kept) == sorted(expected)


def test_dead_letters_of_any_topic_and_reason_are_listed_counted_and_read_again(
    bronze: Bronze, conninfo: str
) -> None:
    rows = [("kraken", text, 0, number, text, text) for number, text in enumerate(HOSTILE)]
    names = ["exchange", "topic", "kafka_partition", "kafka_offset", "raw_message", "reason"]
    bronze.client.insert("dead_letters", rows, column_names=names, database=bronze.database)
    assert {
        (one.topic, one.reason)
        for one in newest_dead_letters(bronze.client, bronze.database, limit=1000)
    } == {(text, text) for text in HOSTILE}
    for text in HOSTILE:
        assert newest_dead_letters(bronze.client, bronze.database, exchange=text) == []
        assert count_reasons(bronze.client, bronze.database, exchange=text) == []
    result = replay_dead_letters(
        bronze.client,
        registry(),
        "kraken",
        conninfo=conninfo,
        database=bronze.database,
        batch_messages=3,
    )
    assert result == ReplayResult(read=len(HOSTILE))
    assert sum(one.dead_letters for one in count_reasons(bronze.client, bronze.database)) == len(
        HOSTILE
    )


def test_log_partitions_of_any_name_are_told_apart_by_a_token(bronze: Bronze) -> None:
    table = f"{quote_identifier(bronze.database)}.hostile_log"
    bronze.client.command(
        f"create table {table} (exchange String, place UInt64) engine = MergeTree order by place"
    )
    rows = [(text, number) for number, text in enumerate(HOSTILE)]
    bronze.client.insert(
        "hostile_log", rows, column_names=["exchange", "place"], database=bronze.database
    )
    cursor = OffsetCursor(kind="kafka_offset", partition=("exchange",), offset="place")
    newest = bronze.client.query(newest_sql(cursor, table, lower=None)).result_rows
    token = parse_token(make_token(cursor, newest).to_json(), cursor)
    assert sorted(token.positions) == sorted(rows)

    def count(predicate: str) -> object:
        return bronze.client.query(f"select count() from {table} where {predicate}").result_rows

    assert count(up_to_sql(cursor, token)) == [(len(HOSTILE),)]
    assert count(beyond_sql(cursor, token)) == [(0,)]

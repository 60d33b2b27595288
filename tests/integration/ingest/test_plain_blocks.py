"""Blocks of plain trades take a short way to Bronze; it leads to what the long one leads to."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .messages import binance, kraken, kraken_trade

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .conftest import Bronze

HEARTBEAT = '{"channel":"heartbeat"}'
MESSAGES = {
    "binance": [
        binance(5),
        f'{{"stream":"btcusdt@trade","data":{binance(6)}}}',
        binance(7).replace('"trade"', '"aggTrade"').replace('"t":7', '"a":7'),
        binance(8).replace('"T"', '"b":88,"a":50,"T"'),
        binance(9).replace("1700000000123", "1700000000123999"),
    ],
    "kraken": [
        kraken(kraken_trade(1)),
        kraken(kraken_trade(2), kraken_trade(3, side="sell"), kind="snapshot"),
        kraken(kraken_trade(4, qty="0.00000001")),
        kraken(kraken_trade(5, qty="1234567890.12345").replace("26247.1", "0.00000001")),
        HEARTBEAT,
    ],
}
NO_JSON = "nothing that could be read"

exchanges = pytest.mark.parametrize("exchange", MESSAGES)


def close_the_long_way(bronze: Bronze, exchange: str) -> None:
    bronze.client.command(f"drop view {bronze.database}.trades_{exchange}_checked_mv sync")


def trades(bronze: Bronze, exchange: str, where: str = "true") -> list[tuple[object, ...]]:
    return bronze.rows(
        "select kafka_offset % 1000 as place, sequence_number, symbol, side, price, quantity,"
        " quote_volume, exchange_timestamp, event_time"
        f" from {{db}}.bronze_trades_{exchange} where {where} order by place, sequence_number"
    )


@exchanges
def test_a_block_of_plain_trades_is_never_looked_at_closely(bronze: Bronze, exchange: str) -> None:
    close_the_long_way(bronze, exchange)
    bronze.send(exchange, MESSAGES[exchange])
    expected = [message for message in MESSAGES[exchange] if message != HEARTBEAT]
    assert len({row[0] for row in trades(bronze, exchange)}) == len(expected)


@exchanges
def test_both_ways_give_the_same_rows(bronze: Bronze, exchange: str) -> None:
    bronze.send(exchange, MESSAGES[exchange])
    bronze.send(exchange, [*MESSAGES[exchange], NO_JSON], first_offset=1000)
    short = trades(bronze, exchange, "kafka_offset < 1000")
    assert short == trades(bronze, exchange, "kafka_offset >= 1000")
    assert len(short) == 5
    assert [place for place, _ in bronze.reasons()] == [1005]


@exchanges
def test_a_block_takes_one_way_and_lands_as_one_part(bronze: Bronze, exchange: str) -> None:
    bronze.send(exchange, [*MESSAGES[exchange], f" {MESSAGES[exchange][0]}"])
    parts = bronze.rows(
        f"select uniqExact(_part), uniqExact(kafka_offset) from {{db}}.bronze_trades_{exchange}"
    )
    sent = len([message for message in MESSAGES[exchange] if message != HEARTBEAT]) + 1
    assert parts == [(1, sent)]


def decimals(most: int) -> st.SearchStrategy[str]:
    """Numbers with up to 10 digits before the point and `most` after it, zero among them."""
    digits = st.integers(0, 10).flatmap(lambda size: st.integers(0, 10**size))
    return st.builds(
        lambda whole, units, places: f"{Decimal(whole * 10**places + units).scaleb(-places):f}",
        digits,
        st.integers(0, 10**6),
        st.integers(0, most),
    )


@st.composite
def binance_messages(draw: st.DrawFn) -> str:
    event, key = draw(st.sampled_from([("trade", "t"), ("aggTrade", "a"), ("trade", "a")]))
    message = (
        f'{{"e":"{event}","E":{draw(times)},"s":"{draw(symbols)}","{key}":{draw(ids)},'
        f'"p":"{draw(decimals(9))}","q":"{draw(decimals(9))}",{draw(extras)}"T":{draw(times)},'
        f'"m":{draw(st.sampled_from(["true", "false"]))}{draw(ends)}}}'
    )
    if draw(st.booleans()):
        return f'{{"stream":"btcusdt@trade","data":{message}}}'
    return message


@st.composite
def kraken_messages(draw: st.DrawFn) -> str:
    some = [
        f'{{"symbol":"{draw(symbols)}/USD","side":"{draw(st.sampled_from(["buy", "sell"]))}",'
        f'"price":{draw(decimals(8))},"qty":{draw(decimals(8))},"ord_type":"market",'
        f'"trade_id":{draw(ids)},"timestamp":"{draw(days)}T07:49:37.708706Z"}}'
        for _ in range(draw(st.integers(0, 3)))
    ]
    return kraken(*some)


times = st.sampled_from([1_700_000_000_123, 1_700_000_000_123_456, 1_229_000_000_000, 17])
ids = st.integers(0, 19).flatmap(lambda size: st.integers(0, 10**size))
symbols = st.sampled_from(["BTCUSDT", "1000SATS", "X", "btc", "A" * 21])
extras = st.sampled_from(["", '"b":88,"a":50,', '"f":1,"l":3,', '"a":1,"a":2,', '"t":3,'])
ends = st.sampled_from(["", ',"M":true'])
days = st.sampled_from(["2023-09-25", "2024-02-29", "2023-02-31", "1999-12-31"])
slips = st.tuples(st.integers(0, 300), st.sampled_from(["", " ", '"', "0", ",", "}", "e", "-"]))


def slipped(message: str, slip: tuple[int, str] | None) -> str:
    """The message with one character in another's place."""
    if slip is None:
        return message
    place = slip[0] % len(message)
    return message[:place] + slip[1] + message[place + 1 :]


@exchanges
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_both_ways_give_the_same_rows_for_any_message(
    bronze: Bronze, exchange: str, data: st.DataObject
) -> None:
    one = {"binance": binance_messages(), "kraken": kraken_messages()}[exchange]
    messages: Sequence[str] = [
        slipped(message, slip)
        for message, slip in data.draw(
            st.lists(st.tuples(one, st.none() | slips), min_size=1, max_size=2)
        )
    ]
    bronze.client.command(f"truncate table {bronze.database}.bronze_trades_{exchange}")
    bronze.client.command(f"truncate table {bronze.database}.dead_letters")
    bronze.send(exchange, messages)
    bronze.send(exchange, [*messages, NO_JSON], first_offset=1000)
    assert trades(bronze, exchange, "kafka_offset < 1000") == trades(
        bronze, exchange, "kafka_offset >= 1000"
    )
    reasons = bronze.reasons()
    assert [(place + 1000, reason) for place, reason in reasons if int(str(place)) < 1000] == [
        (place, reason)
        for place, reason in reasons
        if 1000 <= int(str(place)) < 1000 + len(messages)
    ]

"""Raw messages: what the exchanges would send."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2.errors import IngestError
from k2.ingest.messages import binance_message, kraken_message, messages
from k2.ingest.trade import Side, Trade

numbers = st.integers(min_value=1, max_value=10**18 - 1).map(
    lambda units: Decimal(units).scaleb(-8)
)
sides: st.SearchStrategy[Side] = st.sampled_from(["buy", "sell"])
trades = st.builds(
    Trade,
    exchange=st.just("any"),
    symbol=st.sampled_from(["BTCUSDT", "BTC/USD", 'odd"\\\u5e01']),
    trade_id=st.integers(min_value=0, max_value=2**63 - 1),
    price=numbers,
    quantity=numbers,
    side=sides,
    timestamp_us=st.integers(min_value=1_300_000_000_000_000, max_value=4_000_000_000_000_000),
)


@given(trade=trades)
def test_a_binance_message_keeps_every_digit(trade: Trade) -> None:
    message = json.loads(binance_message(trade))
    assert list(message) == ["e", "E", "s", "t", "p", "q", "T", "m", "M"]
    assert (message["e"], message["s"], message["t"]) == ("trade", trade.symbol, trade.trade_id)
    assert (Decimal(message["p"]), Decimal(message["q"])) == (trade.price, trade.quantity)
    assert message["T"] == trade.timestamp_us // 1000
    assert message["m"] is (trade.side == "sell")


@given(together=st.lists(trades, min_size=1, max_size=4))
def test_a_kraken_message_keeps_every_digit_of_every_trade(together: list[Trade]) -> None:
    message = json.loads(kraken_message(together), parse_float=Decimal, parse_int=Decimal)
    assert (message["channel"], message["type"]) == ("trade", "update")
    for sent, trade in zip(message["data"], together, strict=True):
        assert (sent["price"], sent["qty"]) == (trade.price, trade.quantity)
        assert (sent["symbol"], sent["side"]) == (trade.symbol, trade.side)
        assert sent["trade_id"] == trade.trade_id


def test_kraken_times_have_microseconds() -> None:
    trade = Trade("kraken", "A/B", 1, Decimal(1), Decimal(1), "buy", 1695628177708706)
    sent = json.loads(kraken_message([trade]))["data"][0]
    assert sent["timestamp"] == "2023-09-25T07:49:37.708706Z"


def test_kraken_trades_of_one_market_and_time_share_a_message() -> None:
    def trade(symbol: str, number: int, time: int) -> Trade:
        return Trade("kraken", symbol, number, Decimal(1), Decimal(1), "buy", time)

    given_trades = [trade("A/B", 1, 5), trade("A/B", 2, 5), trade("C/D", 1, 5), trade("C/D", 2, 6)]
    sent = [json.loads(message.text)["data"] for message in messages("kraken", given_trades)]
    assert [[t["trade_id"] for t in data] for data in sent] == [[1, 2], [1], [2]]


def test_an_exchange_without_messages_is_one_error() -> None:
    with pytest.raises(IngestError, match="exchanges known: binance, kraken"):
        messages("bitstamp", [])

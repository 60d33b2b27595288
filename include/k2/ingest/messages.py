"""Trades as the raw JSON messages that the exchanges themselves send."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from k2.errors import IngestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from k2.ingest.trade import Trade

_MARKET_AND_TIME = attrgetter("symbol", "timestamp_us")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Message:
    """One raw message of an exchange about one market."""

    symbol: str
    text: str


def messages(exchange: str, trades: Iterable[Trade]) -> Iterator[Message]:
    """The messages in which an exchange would send these trades, in their order.

    Raises:
        IngestError: K2 does not know how that exchange writes its messages.
    """
    try:
        write = _WRITERS[exchange]
    except KeyError:
        known = ", ".join(_WRITERS)
        raise IngestError(
            f"messages of '{exchange}' cannot be written; exchanges known: {known}"
        ) from None
    return write(trades)


def binance_message(trade: Trade) -> str:
    """A `trade` message of Binance: prices are texts, times are milliseconds.

    https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams#trade-streams
    """
    time = trade.timestamp_us // 1000
    # The buyer is the maker where the taker sells.
    maker = "true" if trade.side == "sell" else "false"
    return (
        f'{{"e":"trade","E":{time},"s":{_quoted(trade.symbol)},"t":{trade.trade_id},'
        f'"p":"{trade.price:f}","q":"{trade.quantity:f}","T":{time},"m":{maker},"M":true}}'
    )


def kraken_message(trades: Sequence[Trade]) -> str:
    """A `trade` message of Kraken's WebSocket API v2: prices are numbers, times have microseconds.

    https://docs.kraken.com/api/docs/websocket-v2/trade
    """
    data = ",".join(
        f'{{"symbol":{_quoted(trade.symbol)},"side":"{trade.side}","price":{trade.price:f},'
        f'"qty":{trade.quantity:f},"ord_type":"market","trade_id":{trade.trade_id},'
        f'"timestamp":"{_timestamp(trade.timestamp_us)}"}}'
        for trade in trades
    )
    return f'{{"channel":"trade","type":"update","data":[{data}]}}'


def _binance_messages(trades: Iterable[Trade]) -> Iterator[Message]:
    for trade in trades:
        yield Message(trade.symbol, binance_message(trade))


def _kraken_messages(trades: Iterable[Trade]) -> Iterator[Message]:
    """Trades of one market at one time share a message: one order met them all."""
    for (symbol, _), together in groupby(trades, _MARKET_AND_TIME):
        yield Message(symbol, kraken_message(list(together)))


_WRITERS: dict[str, Callable[[Iterable[Trade]], Iterator[Message]]] = {
    "binance": _binance_messages,
    "kraken": _kraken_messages,
}


@functools.lru_cache(maxsize=4096)
def _quoted(symbol: str) -> str:
    return json.dumps(symbol)


@functools.lru_cache(maxsize=64)
def _timestamp(timestamp_us: int) -> str:
    time = _EPOCH + timedelta(microseconds=timestamp_us)
    return time.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"

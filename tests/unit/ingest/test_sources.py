"""The argument that names a file of trades."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from k2.errors import IngestError, RegistryError
from k2.ingest.archives import BadRow
from k2.ingest.messages import Message
from k2.ingest.sources import TradesFile, archive_messages, parse_trades_argument
from k2.registry import registry

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("exchange", "market", "symbol"),
    [
        ("binance", "XRPETH", "XRPETH"),
        ("binance", "xrpeth", "XRPETH"),
        ("kraken", "BCHEUR", "BCH/EUR"),
        ("kraken", "BCH/EUR", "BCH/EUR"),
        ("kraken", "XBTUSDT", "BTC/USDT"),
        ("kraken", "ETHXBT", "ETH/BTC"),
        ("kraken", "XDGUSD", "DOGE/USD"),
    ],
)
def test_a_market_is_written_as_in_the_messages(
    tmp_path: Path, exchange: str, market: str, symbol: str
) -> None:
    path = tmp_path / "a=b.csv"
    path.touch()
    argument = f"{exchange}:{market}={path}"
    assert parse_trades_argument(argument, registry()) == TradesFile(exchange, symbol, path)


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("XRPETH=a.csv", "is not EXCHANGE:MARKET=PATH"),
        ("binance:XRPETH", "is not EXCHANGE:MARKET=PATH"),
        ("binance:=a.csv", "is not EXCHANGE:MARKET=PATH"),
        ("binance:XRP/ETH=a.csv", "is not a market of binance"),
        ("kraken:BCHXYZ=a.csv", "quote currency of 'BCHXYZ' is unknown"),
        ("kraken:EUR=a.csv", "quote currency of 'EUR' is unknown"),
        ("binance:XRPETH=/no/such.csv", "/no/such.csv: no such file"),
    ],
)
def test_a_wrong_argument_is_one_clear_error(argument: str, reason: str) -> None:
    with pytest.raises(IngestError, match=reason) as caught:
        parse_trades_argument(argument, registry())
    assert "\n" not in str(caught.value)


def test_an_unknown_exchange_is_one_clear_error() -> None:
    with pytest.raises(RegistryError, match=r"unknown exchange 'bitstamp'.*binance, kraken"):
        parse_trades_argument("bitstamp:BTCUSD=a.csv", registry())


def test_skipped_rows_come_between_the_messages(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("1672620536,90,1\n1672620537,bad,1\n1672620538,91,1\n1672620539,,\n")
    kinds = [type(m) for m in archive_messages(TradesFile("kraken", "A/B", path), skip_bad=True)]
    assert (kinds.count(Message), kinds.count(BadRow)) == (2, 2)

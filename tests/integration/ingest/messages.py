"""Messages as the exchanges send them."""

from __future__ import annotations


def binance(trade_id: int, *, symbol: str = "BTCUSDT", time_ms: int = 1_700_000_000_123) -> str:
    """A message of Binance's trade stream."""
    return (
        f'{{"e":"trade","E":{time_ms + 1},"s":"{symbol}","t":{trade_id},"p":"37000.12345678",'
        f'"q":"0.00001000","T":{time_ms},"m":true,"M":true}}'
    )


def kraken_trade(trade_id: int, *, qty: str = "0.00300000", side: str = "buy") -> str:
    """One trade of a message of Kraken's trade channel."""
    return (
        f'{{"symbol":"BTC/USD","side":"{side}","price":26247.1,"qty":{qty},"ord_type":"market",'
        f'"trade_id":{trade_id},"timestamp":"2023-09-25T07:49:37.708706Z"}}'
    )


def kraken(*trades: str, kind: str = "update") -> str:
    """A message of Kraken's trade channel."""
    return f'{{"channel":"trade","type":"{kind}","data":[{",".join(trades)}]}}'

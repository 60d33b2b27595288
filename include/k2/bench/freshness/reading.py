"""The reader of the freshness benchmark: looks at the markers' candles as any reader would.

A process of its own, which asks `ohlcv_1m_view` again and again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from k2.bench.freshness.markers import MARKETS, Observation
from k2.clickhouse import connect, quote_string

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from clickhouse_connect.driver.client import Client

    from k2.settings import ClickHouse

_REPORT_SECONDS: Final = 0.5
_CANDLES: Final = """
    select exchange, toUnixTimestamp(window_start), trade_count, last_trade_id
    from ohlcv_1m_view
    where (exchange, canonical_symbol) in ({markets}) and window_start >= toDateTime({since}, 'UTC')
    order by exchange, window_start
"""


@dataclass(frozen=True)
class Read:
    """What has changed since the report before, and the seconds of each query."""

    observations: list[Observation]
    query_seconds: list[float]


def read_candles(clickhouse: ClickHouse, period: float, since: int, reports: Connection) -> None:
    """Ask for the markers' candles every `period` seconds, until this process is ended.

    Args:
        since: the first minute to look at, seconds since 1970.
    """
    newest = dict.fromkeys(MARKETS, since)
    shown: dict[tuple[str, int], tuple[int, int]] = {}
    observations: list[Observation] = []
    seconds: list[float] = []
    due = time.monotonic() + _REPORT_SECONDS
    with connect(clickhouse) as client:
        while True:
            began_ns = time.monotonic_ns()
            # Markers come in order: once a later minute shows, the ones before are complete.
            rows = _candles(client, min(newest.values()))
            seen_ns = time.monotonic_ns()
            seconds.append((seen_ns - began_ns) / 1e9)
            for exchange, minute, trade_count, last_trade_id in rows:
                newest[exchange] = max(newest[exchange], minute)
                if shown.get((exchange, minute)) != (trade_count, last_trade_id):
                    shown[exchange, minute] = (trade_count, last_trade_id)
                    observations.append(
                        Observation(exchange, minute, trade_count, last_trade_id, seen_ns)
                    )
            if time.monotonic() >= due:
                reports.send(Read(observations, seconds))
                observations, seconds = [], []
                due = time.monotonic() + _REPORT_SECONDS
            time.sleep(max(0.0, period - (time.monotonic_ns() - began_ns) / 1e9))


def _candles(client: Client, since: int) -> list[tuple[str, int, int, int]]:
    markets = ", ".join(
        f"({quote_string(exchange)}, {quote_string(market.canonical_symbol)})"
        for exchange, market in MARKETS.items()
    )
    rows = client.query(_CANDLES.format(markets=markets, since=since)).result_rows
    return [(str(exchange), int(at), int(count), int(last)) for exchange, at, count, last in rows]

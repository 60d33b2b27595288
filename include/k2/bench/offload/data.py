"""Trades in Bronze: simulated ones, then as many copies of Binance's as it takes."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from k2.clickhouse import quote_identifier
from k2.ingest.messages import messages
from k2.ingest.replay import feed
from k2.ingest.simulation import Simulation
from k2.ingest.simulator import MARKETS, simulate
from k2.offload.watermark import DATABASE
from k2.registry import registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from clickhouse_connect.driver.client import Client

    from k2.settings import Settings

EXCHANGE: Final = "binance"
TABLE: Final = "bronze_trades_binance"
# The simulator draws trades of all exchanges: so many more than an exchange's share needs.
_SPARE: Final = 1.05
_SPARE_TRADES: Final = 1_000
_SPAN_MS: Final = int(Simulation.hours * 3_600_000)


def simulate_trades(
    client: Client,
    settings: Settings,
    trades: int,
    progress: Callable[[int, float], None] | None = None,
    *,
    exchange: str = EXCHANGE,
) -> None:
    """Feed so many simulated trades, as raw messages, through the views into Bronze."""
    share = sum(market.share for market in MARKETS if market.exchange == exchange)
    everything = simulate(
        Simulation.seed,
        int(trades / share * _SPARE) + _SPARE_TRADES,
        Simulation.start,
        Simulation.hours,
        exchange=exchange,
    )
    feed(
        client,
        registry(),
        exchange,
        messages(exchange, itertools.islice(everything, trades)),
        conninfo=settings.postgres.conninfo(DATABASE),
        progress=progress,
    )


def copy_trades(client: Client, trades: int) -> None:
    """Copy what is there until so many trades are: later ones, at later places of the log."""
    name = quote_identifier(TABLE)
    ((there, places, ids),) = client.query(
        f"select count(), max(kafka_offset) + 1, max(sequence_number) + 1 from {name}"
    ).result_rows
    columns = "exchange_timestamp, event_time, kafka_offset, sequence_number"
    for copy in range(1, -(-trades // there)):
        later = f"toIntervalMillisecond({copy * _SPAN_MS})"
        wanted = min(there, trades - copy * there)
        client.command(
            f"insert into {name} ({columns}, symbol, side, price, quantity, quote_volume,"
            f" kafka_partition) select exchange_timestamp + {later}, event_time + {later},"
            f" kafka_offset + {copy * places}, sequence_number + {copy * ids},"
            f" symbol, side, price, quantity, quote_volume, kafka_partition from {name}"
            f" where kafka_offset < {places} limit {wanted}"
        )

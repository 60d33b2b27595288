"""Feeding trades into the queues: from archive files, or simulated."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from k2.clickhouse import connect
from k2.ingest.messages import messages
from k2.ingest.replay import FeedResult, feed
from k2.ingest.simulator import simulate
from k2.ingest.sources import TradesFile, archive_messages
from k2.offload.watermark import DATABASE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from k2.ingest.simulation import Simulation
    from k2.registry import Registry
    from k2.settings import Settings


def feed_files(
    settings: Settings,
    registry: Registry,
    files: list[TradesFile],
    *,
    skip_bad: bool,
    progress: Callable[[str, int, float], None],
) -> Iterator[tuple[str, FeedResult]]:
    """Feed archive files, one after the other; what each feed did, by `exchange:symbol`.

    Raises:
        IngestError: a file cannot be read, or a feed of the exchange is already running.
    """
    with connect(settings.clickhouse) as client:
        for file in files:
            name = f"{file.exchange}:{file.symbol}"
            yield (
                name,
                feed(
                    client,
                    registry,
                    file.exchange,
                    archive_messages(file, skip_bad=skip_bad),
                    conninfo=settings.postgres.conninfo(DATABASE),
                    progress=functools.partial(progress, name),
                ),
            )


def feed_simulation(
    settings: Settings,
    registry: Registry,
    simulation: Simulation,
    *,
    progress: Callable[[str, int, float], None],
) -> Iterator[tuple[str, FeedResult]]:
    """Feed simulated trades of every exchange; what each feed did, by exchange."""
    with connect(settings.clickhouse) as client:
        for exchange in registry.exchanges:
            trades = simulate(
                simulation.seed,
                simulation.trades,
                simulation.start,
                simulation.hours,
                exchange=exchange.name,
            )
            yield (
                exchange.name,
                feed(
                    client,
                    registry,
                    exchange.name,
                    messages(exchange.name, trades),
                    conninfo=settings.postgres.conninfo(DATABASE),
                    progress=functools.partial(progress, exchange.name),
                ),
            )
